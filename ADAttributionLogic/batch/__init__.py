"""Many scans with one question: the list of scans, the question, a result folder for each, and the summary of all."""
