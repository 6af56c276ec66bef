"""One run from what was asked to what was found, and the folder that holds both."""
