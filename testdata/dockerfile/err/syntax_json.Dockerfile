{"syntax": "example/other:1", "steps": []}
