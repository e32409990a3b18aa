"""Whether a generator or an energy model of a package does what `dao_flows` asks of it: suites that its author runs."""
