"""``umbrella-lsp --doctor``: what a person needs for a bug report, and what they can mend by themselves.

`report` is what there is to say; `advice` concludes from it what to do, and both are pure. `machine`,
`software`, `configuration` and `running` look at the world, each part for itself, so that a broken one says
so and no more. Nothing here starts an engine or changes a file, and nothing that is said holds source text or
a token.
"""
