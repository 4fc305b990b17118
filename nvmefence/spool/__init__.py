"""Request and response files: reading safely, writing durably. Knows no drive, no fence, no agent.

`errors`, `names`, `files`, `json_strict` and `response` load in a few milliseconds, for the agent's sake.
"""
