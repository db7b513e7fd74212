(() => {
  const root = document.body.dataset.root;
  const api = `${root}/api/v2`;
  const ended = new Set(["success", "failed"]);

  // Times, in the zone of who looks.
  const localised = (text) => new Intl.DateTimeFormat(undefined, {
    day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false,
    ...(new Date(text).getFullYear() !== new Date().getFullYear() && { year: "numeric" }),
  }).format(new Date(text));
  for (const time of document.querySelectorAll("time")) {
    time.title = time.dateTime;
    time.textContent = localised(time.dateTime);
  }
  for (const title of document.querySelectorAll("title[data-at]")) {
    title.textContent = `${localised(title.dataset.at)}: ${title.textContent}`;
  }

  // Airflow frames the page in a sandbox that may not navigate it. A link of Airflow's own document may.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-airflow]");
    if (!link || window.parent === window) return;
    event.preventDefault();
    const theirs = window.parent.document.createElement("a");
    theirs.href = link.href;
    window.parent.document.body.append(theirs);
    theirs.click();
    theirs.remove();
  });

  // Airflow's REST API, with the session and the rights of who looks.
  const ask = async (path, body) => {
    const reply = await fetch(`${api}${path}`, {
      method: body ? "POST" : "GET",
      credentials: "same-origin",
      headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
    if (!reply.ok) throw new Error(reply.status === 403 ? "you may not do that" : `Airflow answered ${reply.status}`);
    return reply.json();
  };
  const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const runLink = (dag, run) => element("a", run, {
    href: `${root}/dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}`, "data-airflow": "" });

  // What failed DAG runs said: the last error in the log of the task that failed first.
  const said = async (dag, run) => {
    const base = `/dags/${encodeURIComponent(dag)}/dagRuns/${encodeURIComponent(run)}/taskInstances`;
    const { task_instances: tasks } = await ask(`${base}?state=failed&order_by=end_date&limit=1`);
    if (!tasks.length) return "No task of it failed: it timed out, or somebody marked it so.";
    const [{ task_id: task, try_number: number, map_index: index }] = tasks;
    const log = await ask(`${base}/${encodeURIComponent(task)}/logs/${number}?map_index=${index}&full_content=true`);
    const errors = (Array.isArray(log.content) ? log.content : []).filter((line) => line.level === "error");
    const last = errors.at(-1);
    const detail = last?.error_detail?.at(-1);
    const line = detail ? `${detail.exc_type}: ${detail.exc_value}` : last?.event;
    return `${task}: ${line ?? "its log holds no error; open the run"}`;
  };
  const failures = async (place) => {
    const { dag } = place.dataset;
    try {
      const path = `/dags/${encodeURIComponent(dag)}/dagRuns?state=failed&order_by=-run_after&limit=5`;
      const { dag_runs: runs } = await ask(path);
      if (!runs.length) {
        place.replaceChildren(element("p", "None that Airflow remembers.", { class: "empty" }));
        return;
      }
      const list = document.createElement("ul");
      place.replaceChildren(list);
      for (const run of runs) {
        const item = document.createElement("li");
        item.append(runLink(dag, run.dag_run_id), ` ${localised(run.run_after)}`);
        const line = element("pre", "…");
        item.append(line);
        list.append(item);
        said(dag, run.dag_run_id).then((text) => { line.textContent = text; }, (error) => { line.textContent = error.message; });
      }
    } catch (error) {
      place.replaceChildren(element("p", `Airflow did not tell: ${error.message}.`, { class: "empty" }));
    }
  };
  const place = document.getElementById("failures");
  if (place) failures(place);

  // Redrive.
  const form = document.getElementById("redrive");
  if (!form) return;
  const { dag, contract } = form.dataset;
  const outcome = document.getElementById("outcome");
  const dialog = document.getElementById("confirm");
  const tell = (tone, ...parts) => {
    const line = element("p", "", { class: `notice ${tone}` });
    line.append(...parts);
    outcome.replaceChildren(line);
  };
  const counted = (result) => {
    const lines = Object.entries(result.verdicts ?? {}).flatMap(([reason, verdicts]) =>
      Object.entries(verdicts).map(([verdict, count]) => `${reason} → ${verdict}: ${count}`));
    const done = ["loaded", "still_quarantined", "overtaken"].filter((name) => name in result)
      .map((name) => `${name.replace("_", " ")} ${result[name]}`);
    return [`${result.messages} messages`, ...done, ...lines].join("\n");
  };
  const redrive = async (dryRun) => {
    const buttons = [...form.querySelectorAll("button")];
    buttons.forEach((button) => { button.disabled = true; });
    try {
      const { dag_run_id: run } = await ask(`/dags/${dag}/dagRuns`, {
        logical_date: null,
        note: form.why.value.trim() || "dry run from the page",
        conf: { dry_run: dryRun, contract, reason: form.reason.value || null },
      });
      tell("", dryRun ? "The dry run is under way: " : "The redrive is under way: ", runLink(dag, run));
      let state = "";
      while (!ended.has(state)) {
        await pause(1000);
        ({ state } = await ask(`/dags/${dag}/dagRuns/${encodeURIComponent(run)}`));
      }
      if (state === "failed") {
        tell("bad", "It failed: ", await said(dag, run), " ", runLink(dag, run));
        return;
      }
      const path = `/dags/${dag}/dagRuns/${encodeURIComponent(run)}/taskInstances/redrive/xcomEntries/return_value`;
      const { value } = await ask(`${path}?deserialize=true`);
      tell("good", dryRun ? "It would come to this: " : "Done: ", element("pre", counted(value)), runLink(dag, run));
    } catch (error) {
      tell("bad", `Nothing was started, or its end is not known: ${error.message}.`);
    } finally {
      buttons.forEach((button) => { button.disabled = false; });
    }
  };
  document.getElementById("dry").addEventListener("click", () => redrive(true));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const which = form.reason.selectedOptions[0].textContent;
    document.getElementById("confirm-text").textContent =
      `Which: ${which}. Why: ${form.why.value.trim()}. What the contract accepts becomes a row; this cannot be taken back.`;
    dialog.showModal();
  });
  document.getElementById("no").addEventListener("click", () => dialog.close());
  document.getElementById("yes").addEventListener("click", () => { dialog.close(); redrive(false); });
})();
