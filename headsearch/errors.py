"""The exception tree. Every error a caller may want to catch is one of these.

HeadsearchError                 the root; exit code 2
├── InputError                  an argument or a value that breaks a rule
│   ├── DataError               labelled data that can't be used as it is
│   ├── ModelError              a model that can't be loaded or searched
│   │   └── UnknownFamilyError  its attention layers are of no known family
│   └── RunFolderError          a run folder that is missing, or is not one
│       └── FolderTakenError    something is where a new one is to be made
├── MemoError                   a memo file that is corrupted, foreign or not writable
├── StorageError                a file that could not be written (disk full, no right to)
├── FetchError                  a download that failed or was interrupted
└── EngineError                 workers that could not be started or kept alive
"""

from __future__ import annotations


class HeadsearchError(Exception):
    """Root of all errors that headsearch raises on purpose; its text is one clear line."""

    exit_code = 2


class InputError(HeadsearchError):
    """An argument or value breaks a rule; the text names the thing, the rule and the value."""


class DataError(InputError):
    """Labelled data can't be used as it is."""


class ModelError(InputError):
    """A model can't be loaded or searched."""


class UnknownFamilyError(ModelError):
    """The model's attention layers are of no known family; the text lists the known ones."""


class RunFolderError(InputError):
    """A run folder exists, is missing, or holds something else."""


class FolderTakenError(RunFolderError):
    """There is something already where a new run folder is to be made."""


class MemoError(HeadsearchError):
    """A memo file is corrupted, foreign or not writable."""


class StorageError(HeadsearchError):
    """A file could not be written; whatever was there before is untouched."""


class FetchError(HeadsearchError):
    """A download failed or was interrupted; nothing half-written was kept."""


class EngineError(HeadsearchError):
    """Workers could not be started or kept alive."""
