"""The spine: contract, configuration, plan, store, gates, runner, reports, command line."""
