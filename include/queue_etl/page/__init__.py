"""The page in Airflow's UI: what it reads, draws and says. It knows no Airflow, and changes nothing."""
