package unit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/service"
)

// Driver runs the agent of one home. Every method may be called again at any time, and does nothing where all is as it
// should be. Methods are for one caller at a time.
type Driver interface {
	Kind() plan.UnitKind
	// Text is what the unit's file should hold. It differs between versions of this program only.
	Text() ([]byte, error)
	// Installed is what the file holds; nil where there is none.
	Installed() ([]byte, error)
	// Install replaces the file, whole or not at all. It starts nothing.
	Install(ctx context.Context, text []byte) error
	// Start has the agent run, from now on and after each start of the machine as far as the kind allows. One that runs is
	// ended first.
	Start(ctx context.Context) error
	// Stop ends the agent, for good: it is gone when Stop returns.
	Stop(ctx context.Context) error
	// Remove takes the unit away, stopped.
	Remove(ctx context.Context) error
	Status(ctx context.Context) (Status, error)
}

// Status says what of a unit is there.
type Status struct {
	Loaded  bool // the system knows it
	Wanted  bool // it runs, or is to be started again
	Running bool
	PID     int // of the agent; zero while it does not run
	// Ended is how often the agent ended by itself since Start: as the system counts it, or, where it does not, as often as
	// this driver saw it by its own calls of Status.
	Ended int
}

// Spec says what is run, and as whom.
type Spec struct {
	// Home is the node's folder, absolute. What runs is <Home>/current/mlxctl agent.
	Home string
	// User, UID and UserHome are of whom it runs as; zero values mean the user of this process.
	User     string
	UID      int
	UserHome string
	// Password is for sudo, where it wants one. It goes to its standard input.
	Password string
	// Sudo is shared by the drivers that are opened with the same password; nil is one of each driver's own.
	Sudo *Sudo
	// ServiceDir is the folder of services of runit; empty means that of SVDIR, then /etc/service.
	ServiceDir string

	goos      string
	daemonDir string // of launchd
	euid      int
}

// Fill returns s with what was left empty, or says why nothing can run by it.
func (s Spec) Fill() (Spec, error) {
	if s.User == "" {
		u, err := user.Current()
		if err != nil {
			return s, fmt.Errorf("find out whose agent this is: %w", err)
		}
		s.User, s.UserHome = u.Username, u.HomeDir
		s.UID, _ = strconv.Atoi(u.Uid) // a number on every system with units
		if home := os.Getenv("HOME"); filepath.IsAbs(home) {
			s.UserHome = home
		}
	}
	if s.Sudo == nil {
		s.Sudo = new(Sudo)
	}
	if s.ServiceDir == "" {
		s.ServiceDir = os.Getenv("SVDIR")
	}
	if s.ServiceDir == "" {
		s.ServiceDir = "/etc/service"
	}
	if s.goos == "" {
		s.goos, s.daemonDir, s.euid = runtime.GOOS, "/Library/LaunchDaemons", os.Geteuid()
	}
	for _, text := range []string{s.Home, s.User, s.UserHome, s.ServiceDir} {
		if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return s, cluster.Errorf(cluster.CodeInvalid, "%q cannot be part of a service", text)
		}
	}
	if !filepath.IsAbs(s.Home) || !filepath.IsAbs(s.UserHome) || !filepath.IsAbs(s.ServiceDir) {
		return s, cluster.Errorf(cluster.CodeInvalid, "a service needs absolute paths, not %q, %q and %q", s.Home, s.UserHome, s.ServiceDir)
	}
	return s, nil
}

// suffix tells services of several homes of one machine apart; the usual home has none.
func (s Spec) suffix() string {
	if s.Home == filepath.Join(s.UserHome, ".mlxctl") {
		return ""
	}
	sum := sha256.Sum256([]byte(s.Home))
	return hex.EncodeToString(sum[:4])
}

func (s Spec) name() string {
	if end := s.suffix(); end != "" {
		return "mlxctl-agent-" + end
	}
	return "mlxctl-agent"
}

func (s Spec) label() string {
	if end := s.suffix(); end != "" {
		return "ai.mlxctl.agent." + end
	}
	return "ai.mlxctl.agent"
}

func (s Spec) exe() string { return filepath.Join(s.Home, "current", "mlxctl") }

// Log is where the agent writes, and what starts it where it cannot.
func (s Spec) Log() string { return service.LogPath(s.Home, "agent") }

// variable is one of the environment.
type variable struct{ Name, Value string }

// environment is all that the agent sees: that of a session would differ from one start to the next.
func (s Spec) environment() []variable {
	path := "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
	if s.goos == "darwin" {
		path = "/opt/homebrew/bin:" + path
	}
	return []variable{
		{"HOME", s.UserHome}, {"PATH", path}, {"MLXCTL_HOME", s.Home}, {"MLXCTL_CACHE", filepath.Join(s.Home, "cache")},
	}
}

// Open returns the driver of a kind, whether the system has it or not.
func Open(kind plan.UnitKind, s Spec) (Driver, error) {
	s, err := s.Fill()
	if err != nil {
		return nil, err
	}
	switch kind {
	case plan.UnitLaunchDaemon:
		return newLaunchDaemon(s), nil
	case plan.UnitLaunchAgent:
		return newLaunchAgent(s), nil
	case plan.UnitSystemd:
		return newSystemd(s), nil
	case plan.UnitRunit:
		return newRunit(s), nil
	case plan.UnitKeeper:
		return &keeper{s}, nil
	}
	return nil, cluster.Errorf(cluster.CodeInvalid, "%q is no kind of unit", kind).
		WithHint("one of: launchd-daemon, launchd-agent, systemd-user, runit, keeper")
}

// Choose returns the driver of the best kind that the system has, or of the kind asked for.
func Choose(ctx context.Context, kind plan.UnitKind, s Spec) (Driver, error) {
	s, err := s.Fill()
	if err != nil {
		return nil, err
	}
	kinds := []plan.UnitKind{plan.UnitRunit, plan.UnitSystemd, plan.UnitKeeper}
	if s.goos == "darwin" {
		kinds = []plan.UnitKind{plan.UnitLaunchDaemon, plan.UnitLaunchAgent}
	}
	if kind != "" {
		kinds = []plan.UnitKind{kind}
	}
	var why []error
	for _, k := range kinds {
		d, err := Open(k, s)
		if err != nil {
			return nil, err
		}
		if err = d.(available).available(ctx); err == nil {
			return d, nil
		}
		why = append(why, fmt.Errorf("%s: %w", k, err))
	}
	return nil, cluster.Errorf(cluster.CodeUnsupported, "nothing here can run the agent: %v", errors.Join(why...))
}

// Kinds are all that there are, best first on their platform.
func Kinds() []plan.UnitKind {
	return []plan.UnitKind{plan.UnitLaunchDaemon, plan.UnitLaunchAgent, plan.UnitRunit, plan.UnitSystemd, plan.UnitKeeper}
}

// Worse says that a kind is less than another one of the same platform.
func Worse(a, b plan.UnitKind) bool {
	order := Kinds()
	return slices.Index(order, a) > slices.Index(order, b)
}

// Available says why a driver cannot change anything here, which may take sudo; nil means that it can.
func Available(ctx context.Context, d Driver) error {
	if err := d.(available).available(ctx); err != nil {
		return cluster.Errorf(cluster.CodeUnauthorized, "%s here: %v", d.Kind(), err).
			WithHint("give the password of sudo with --ask-sudo, or allow sudo without one")
	}
	return nil
}

// available says why a kind cannot be had here.
type available interface {
	available(ctx context.Context) error
}

const (
	poll = 50 * time.Millisecond
	// endWait is longer than an agent with requests may take, and than launchd waits for it.
	endWait    = 75 * time.Second
	endSeconds = "75" // the same for sv
	// startWait is how long a system may take to notice a new service, or that one is gone. runit looks every 5 s, on a Mac
	// that has nothing else to do.
	startWait = time.Minute
)

// await asks again and again, at most for so long.
func await(ctx context.Context, most time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return cluster.Errorf(cluster.CodeTimeout, "%s within %s", what, most)
		case <-tick.C:
		}
	}
}
