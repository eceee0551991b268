package cmd

import (
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/config"
)

// sshFlags say how other machines are reached; what is not given comes from the settings.
type sshFlags struct {
	set       *pflag.FlagSet
	transport string
	user      string
	parallel  int
	askSudo   bool
}

func (s *sshFlags) add(f *pflag.FlagSet) {
	s.set = f
	f.StringVar(&s.transport, "transport", "", "how to reach hosts: library, or openssh for the system's ssh (default library)")
	f.StringVar(&s.user, "user", "", "whom to log in as where a host names nobody")
	f.IntVar(&s.parallel, "parallel", 0, "hosts at a time (default 8)")
	f.BoolVar(&s.askSudo, "ask-sudo", false, "ask once for the password that sudo wants on the hosts")
}

const (
	defaultParallel = 8
	mostParallel    = 64
)

// settle fills in what was not given, and refuses what cannot be.
func (s *sshFlags) settle(cfg *config.Config) error {
	if !s.set.Changed("transport") {
		s.transport = cfg.SSH.Transport
	}
	if !s.set.Changed("user") {
		s.user = cfg.SSH.User
	}
	if !s.set.Changed("parallel") {
		s.parallel = cfg.SSH.Parallel
		if s.parallel == 0 {
			s.parallel = defaultParallel
		}
	}
	switch {
	case s.transport != "" && !slices.Contains([]string{"library", "openssh"}, s.transport):
		return usagef("--transport must be library or openssh, not %q", s.transport)
	case s.parallel < 1 || s.parallel > mostParallel:
		return usagef("--parallel must be from 1 to %d, not %d", mostParallel, s.parallel)
	}
	if s.user != "" {
		if _, err := config.ParseHost(s.user + "@host"); err != nil {
			return usagef("--user must be a user's name, not %q", s.user)
		}
	}
	return nil
}

// clusterFlags are those of `up` over the network.
type clusterFlags struct {
	sshFlags
	yes        bool
	knownOnly  bool
	dryRun     bool
	noDiscover bool
	offline    bool
	unit       string
	// only leaves out what was not named: neither Bonjour nor settings nor earlier nodes.
	only bool
}

// addInstall adds the flags of every command that installs on hosts.
func (c *clusterFlags) addInstall(f *pflag.FlagSet) {
	c.add(f)
	f.BoolVarP(&c.yes, "yes", "y", false, "do what is planned without asking, and trust the SSH host keys that are new")
	f.BoolVar(&c.knownOnly, "known-hosts-only", false, "trust no SSH host key that is new: such a host is a failure")
	f.BoolVar(&c.dryRun, "dry-run", false, "show the plan and change nothing")
	f.BoolVar(&c.offline, "offline", false, "send Python packages from here; hosts fetch nothing")
	f.StringVar(&c.unit, "unit", "", "who runs the agent there: launchd-daemon, launchd-agent, systemd-user, runit or keeper (default the best that the host has)")
}

// addUp adds those of `up`.
func (c *clusterFlags) addUp(f *pflag.FlagSet) {
	c.addInstall(f)
	f.BoolVar(&c.noDiscover, "no-discover", false, "do not look for Macs with Bonjour")
}

func (opts *upOptions) addTakeOver(f *pflag.FlagSet) {
	f.BoolVar(&opts.takeOver, "take-over", false, "also a HOST that is a node of another cluster, which loses it")
}

func (c *clusterFlags) check() error { return checkUnit(c.unit) }

// checkUnit checks a --unit.
func checkUnit(unit string) error {
	kinds := []string{
		string(plan.UnitLaunchDaemon), string(plan.UnitLaunchAgent), string(plan.UnitSystemd),
		string(plan.UnitRunit), string(plan.UnitKeeper),
	}
	if unit != "" && !slices.Contains(kinds, unit) {
		return usagef("--unit must be launchd-daemon, launchd-agent, systemd-user, runit or keeper, not %q", unit)
	}
	return nil
}

// Scans last long where nothing is known yet, and short where most Macs are nodes already.
const (
	firstScan = 3 * time.Second
	laterScan = 1500 * time.Millisecond
)
