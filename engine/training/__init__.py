"""Trains drafts for any target, and the pair that ships.

::

    command                    umbrella-engine train-draft
      corpus                   folders and wheels -> files: cleaning, folders, licences, near_duplicates
      held_out                 files -> those to learn from, those to measure on
      draft                    the course a draft goes through
        examples, rows         files -> prompts as the daemon writes them -> rows of ids
        lessons                the target's own continuations and probabilities
        objectives, train      what is learnt, and the loop: optimizer, progress
        acceptance             tokens per pass before and after
    __main__                   the pair: prepare, target, quantize, draft, card; sizes in recipe, shapes

Only `command` is imported by the engine, and only what it imports when it runs needs the extra ``train``.
"""
