"""How a study is made: its arms and tasks, each arm's learning rate, the order of its runs, what is shown meanwhile."""
