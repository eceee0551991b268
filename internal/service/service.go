package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// Child is one process that the keeper runs.
type Child struct {
	Name string
	Args []string // after the binary; the flags of the lifeline and the socket are added
	// Listens says that it takes the socket on Options.Listen, and lets what is open finish when its keeper is replaced.
	Listens bool
}

// Options describe the services of one home. The same options must be given by every command of one version.
type Options struct {
	Home string
	// Exe is the binary that is keeper and children alike; Arg0 is what it is called, so that a process list reads well.
	Exe, Arg0 string
	// Versions is the folder in which Start makes a copy of Exe, which is then what runs: a binary that is replaced changes
	// nothing that runs, and the version before can be started again. Empty means that Exe itself runs.
	Versions string
	// KeepArgs make Exe a keeper.
	KeepArgs []string
	// Env is added to what keeper and children inherit: they run in Home, where a relative path means another place.
	Env      []string
	Children []Child
	// Version and Settings describe what the children run with: a keeper of another version, or with other settings, is
	// replaced by Start.
	Version, Settings string
	// Listen is the address on which the keeper listens for the child that Listens: connections made while that is started
	// again, or the keeper replaced, wait for it. Empty means none.
	Listen string
	// Inherit is how Keep gets the socket of a keeper before; see InheritFlag.
	Inherit string
	// Finish is how long Start lets what is open with the child that Listens take, before it replaces its keeper.
	Finish time.Duration
	// Grace is the time between SIGTERM and SIGKILL; zero means 10 s.
	Grace time.Duration
	Log   *slog.Logger
}

// Proc is one process as a status shows it.
type Proc struct {
	Name     string    `json:"name"`
	PID      int       `json:"pid"` // 0 while it waits to be started again
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts"`
	LastExit string    `json:"last_exit,omitempty"`
}

// Status says what runs.
type Status struct {
	Desired  bool   `json:"desired"` // the services should run
	Running  bool   `json:"running"` // a keeper lives
	Version  string `json:"version,omitempty"`
	Settings string `json:"-"`
	Exe      string `json:"-"` // what keeper and children run
	Keeper   Proc   `json:"keeper"`
	Children []Proc `json:"children,omitempty"`
}

// record is keeper.json.
type record struct {
	Process  process   `json:"process"`
	Version  string    `json:"version"`
	Settings string    `json:"settings"`
	Exe      string    `json:"exe"`
	Since    time.Time `json:"since"`
	Children []Proc    `json:"children"`
	// Former is the keeper before this one, until its session is known to be gone.
	Former *process `json:"former,omitempty"`
}

const (
	defaultGrace = 10 * time.Second
	poll         = 20 * time.Millisecond
)

func (o Options) grace() time.Duration {
	if o.Grace > 0 {
		return o.Grace
	}
	return defaultGrace
}

func (o Options) run(name string) string { return filepath.Join(o.Home, "run", name) }

// LogPath is the log file of one service of a home.
func LogPath(home, name string) string { return filepath.Join(home, "log", name+".log") }

func (o Options) makeDirs() error {
	for _, d := range []string{filepath.Join(o.Home, "run"), filepath.Join(o.Home, "log")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return nil
}

// Acquire takes the lock that makes starting and stopping the services of a home one at a time. It waits while another
// command holds it, until ctx ends.
func Acquire(ctx context.Context, o Options) (release func(), err error) {
	if err := o.makeDirs(); err != nil {
		return nil, err
	}
	l, err := durable.Lock(ctx, o.run("op.lock"))
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}

// Start makes sure that a keeper of this version with these settings runs. The caller holds Acquire's lock. changed is
// false when everything was as it should be. Where the copy of the binary cannot be made, what runs goes on. With Exe, Version
// and Settings of a Status it goes back to what ran then.
func Start(ctx context.Context, o Options) (changed bool, err error) {
	if err := o.makeDirs(); err != nil {
		return false, err
	}
	s, err := Settled(ctx, o)
	if err != nil {
		return false, err
	}
	if s.Running && s.Version == o.Version && s.Settings == o.Settings {
		return false, writeDesired(o)
	}
	if o, err = o.withCopy(); err != nil {
		return false, err
	}
	var held *socket
	if s.Running || s.Keeper.PID != 0 {
		if rec, err := o.readRecord(); err == nil && rec != nil && s.Running && o.Listen != "" {
			var release func()
			held, release = o.replace(ctx, rec.Process)
			defer release()
			ctx = context.WithoutCancel(ctx) // who no longer wants to wait wants no cluster without services
		}
		if err := Stop(ctx, o); err != nil {
			return false, err
		}
	}
	if err := writeDesired(o); err != nil {
		return false, err
	}
	if err := o.launch(ctx, held); err != nil {
		return true, err
	}
	if err := o.prune(o.Exe, s.Exe); err != nil {
		o.Log.Warn("cannot remove copies of old versions", "err", err)
	}
	return true, nil
}

func writeDesired(o Options) error {
	return durable.Write(o.run("desired"), []byte("up\n"), 0o600)
}

// launch starts a keeper and waits until one holds the home's lock.
func (o Options) launch(ctx context.Context, held *socket) error {
	wait, err := o.spawn(held)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		s, err := Read(o)
		if err != nil {
			return err
		}
		if s.Running && s.Keeper.PID != 0 {
			return nil
		}
		select {
		case err := <-wait:
			return cluster.Errorf(cluster.CodeInternal, "the background keeper ended at once (%v): %s",
				exitText(err), tail(LogPath(o.Home, "keeper"))).WithHint("see %s", LogPath(o.Home, "keeper"))
		case <-ctx.Done():
			return cluster.Errorf(cluster.CodeTimeout, "the background keeper did not start").
				WithHint("see %s", LogPath(o.Home, "keeper"))
		case <-tick.C:
		}
	}
}

// Stop ends the services of a home, whatever state they are in: alive, hung, half-started, or long dead with stale
// files. When it returns nil no process of theirs is left. The caller holds Acquire's lock.
func Stop(ctx context.Context, o Options) error {
	if err := o.makeDirs(); err != nil {
		return err
	}
	if err := remove(o.run("desired")); err != nil {
		return err
	}
	rec, err := o.settle(ctx)
	if err != nil {
		return err
	}
	if rec != nil {
		if err := o.endKeeper(ctx, rec.Process); err != nil {
			return err
		}
		for _, p := range []*process{&rec.Process, rec.Former} {
			if p == nil {
				continue
			}
			if err := p.endSession(ctx, min(o.grace(), 3*time.Second)); err != nil {
				return err
			}
		}
	}
	if err := remove(o.run("keeper.sock")); err != nil {
		return err
	}
	return remove(o.run("keeper.json"))
}

// settle reads the record, and where a keeper holds the lock but has not yet written who it is, waits for it.
func (o Options) settle(ctx context.Context) (*record, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		rec, err := o.readRecord()
		if err != nil {
			return nil, err
		}
		held, err := isHeld(o.run("keeper.lock"))
		if err != nil {
			return nil, err
		}
		if !held || (rec != nil && rec.Process.alive()) {
			return rec, nil
		}
		select {
		case <-ctx.Done():
			return nil, cluster.Errorf(cluster.CodeTimeout, "a keeper holds %s but does not say who it is", o.run("keeper.lock")).
				WithHint("`lsof %s` names its process; end that, then try again", o.run("keeper.lock"))
		case <-tick.C:
		}
	}
}

func (o Options) endKeeper(ctx context.Context, p process) error {
	if !p.alive() {
		return nil
	}
	p.signal(terminate)
	if p.waitGone(ctx, o.grace()+3*time.Second) {
		return nil
	}
	p.signal(kill)
	if !p.waitGone(ctx, 3*time.Second) {
		return cluster.Errorf(cluster.CodeTimeout, "the background keeper (pid %d) does not end", p.PID)
	}
	return nil
}

// Read says what runs now. It needs no lock. A keeper whose record is damaged is not seen until it has written another.
func Read(o Options) (Status, error) {
	rec, err := o.readRecord()
	return o.status(rec), err
}

// Settled is Read once a keeper that lives has said who it is. It waits some seconds for that, and fails where none does.
func Settled(ctx context.Context, o Options) (Status, error) {
	rec, err := o.settle(ctx)
	return o.status(rec), err
}

func (o Options) status(rec *record) Status {
	var s Status
	if _, err := os.Stat(o.run("desired")); err == nil {
		s.Desired = true
	}
	if rec == nil {
		return s
	}
	s.Version, s.Settings, s.Exe = rec.Version, rec.Settings, rec.Exe
	s.Keeper = Proc{Name: "keeper", PID: rec.Process.PID, Since: rec.Since}
	s.Children = rec.Children
	s.Running = rec.Process.alive()
	return s
}

// readRecord returns nil where there is none, or an unreadable one: that is as good as none.
func (o Options) readRecord() (*record, error) {
	data, err := os.ReadFile(o.run("keeper.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read keeper's record: %w", err)
	}
	var rec record
	if json.Unmarshal(data, &rec) != nil || rec.Process.PID <= 1 {
		return nil, nil
	}
	return &rec, nil
}

func (o Options) writeRecord(rec *record) error {
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode keeper's record: %w", err)
	}
	return durable.Write(o.run("keeper.json"), append(data, '\n'), 0o600)
}
