-- Placeholder of branch i12-privacy, so that its 0009 has its number. The lead drops it when merging.
SELECT 1;
