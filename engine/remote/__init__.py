"""The target on servers elsewhere: prompts are made here, texts come from whoever speaks OpenAI's API.

`executor` is what HTTP sees; `prompts` makes what is sent, `wire` words it, `upstream` talks to one server,
`pool` chooses among several, `dispatch` asks until one answers, `answer` makes chunks of what comes back, and
`stand_in` runs models here while nobody does. Torch-free.
"""
