"""One CNI request, in either mode."""
