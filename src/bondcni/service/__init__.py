"""One CNI request, whoever asked."""
