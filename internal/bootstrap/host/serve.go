package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

// Identity is who a node is.
type Identity struct {
	Node     cluster.NodeID
	Key      string // public
	Hardware string // hashed
}

// PythonRequest asks for the environment of workers.
type PythonRequest struct {
	Home        string
	Interpreter string // the user's own; empty means ours
	Wheels      string // a folder of packages; empty means the network
	Offline     bool   // no network
	Progress    func(string)
}

// Options say what Serve works with. In, Out, Exe, Identity, Join and Python are required.
type Options struct {
	// In and Out are the conversation with the operator's side. In is read to its end by a goroutine that may outlive
	// Serve where In cannot be closed.
	In  io.Reader
	Out io.Writer
	// Exe is this binary.
	Exe string
	// Identity loads who the node with that home is, or makes it.
	Identity func(ctx context.Context, home string) (Identity, error)
	// Join writes the credentials that come of a signature.
	Join func(ctx context.Context, home, jwt string) error
	// Python makes sure of the environment of workers; changed says that it was not there, or not whole.
	Python func(ctx context.Context, r PythonRequest) (changed bool, err error)
	// Checks looks at the node for plan.Check; nil finds nothing.
	Checks func(ctx context.Context, home string) []plan.Finding
	// Unit says how services are installed; its Home, Password and Sudo are those of the order.
	Unit unit.Spec
	Log  *slog.Logger // nil means silence

	// decide is how long the operator may take to say commit; zero means 3 min.
	decide time.Duration
	// at is called between two changes, for tests that end the process there.
	at func(point string)
}

const (
	defaultGate   = 30 * time.Second
	defaultDecide = 3 * time.Minute
	undoWait      = 4 * time.Minute
	mostLine      = 4 << 20
)

// Serve reads an order and does it. What comes of it, errors as well, is told to the operator's side; only where it
// cannot be spoken to is an error returned. When an installation fails, or the operator goes away or ctx ends before it is
// committed, the host is as it was when Serve returns.
func Serve(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.decide <= 0 {
		o.decide = defaultDecide
	}
	if o.at == nil {
		o.at = func(string) {}
	}
	lines := bufio.NewScanner(o.In)
	lines.Buffer(nil, mostLine)
	s := &session{Options: o, talk: talk{out: json.NewEncoder(o.Out), in: make(chan plan.ToHost, 8)}}
	if !lines.Scan() {
		return fmt.Errorf("read the order: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
	}
	var err error
	if err = json.Unmarshal(lines.Bytes(), &s.order); err != nil {
		err = cluster.Errorf(cluster.CodeInvalid, "read the order: %v", err)
	} else {
		err = s.run(ctx, lines)
	}
	s.done.Type = plan.TypeDone
	if err != nil {
		s.done.Error = explain(err, s.order.Home)
	}
	s.talk.say(s.done)
	if hangUp(o.In) && s.heard != nil {
		<-s.heard
	}
	return nil
}

// hangUp ends the reading of what nobody wants to hear any more; false where that cannot be done, as with a standard input
// that blocks: its read goes on until the other end is closed.
func hangUp(in io.Reader) bool {
	c, ok := in.(io.Closer)
	if !ok {
		return false
	}
	ends := true
	if d, ok := in.(interface{ SetReadDeadline(t time.Time) error }); ok {
		ends = d.SetReadDeadline(time.Now()) == nil
	}
	_ = c.Close() // nothing was written
	return ends
}

// session is one order.
type session struct {
	Options
	order plan.Order
	talk  talk
	done  plan.FromHost // the last word
	// logged is how much the agent's log held before the agent was started.
	logged int64
	// unlock lets go of the home; nil while it is not held.
	unlock func()
	// forced says that a journal is not to be gone back by: all that may be of ours is to go. stray are units it names.
	forced bool
	stray  []unitRecord
	// heard is closed when nobody listens to the operator's side any more; nil where nobody did.
	heard chan struct{}
}

func (s *session) run(ctx context.Context, lines *bufio.Scanner) error {
	if err := s.check(); err != nil {
		return err
	}
	s.Unit.Home, s.Unit.Password, s.Unit.Sudo = s.order.Home, s.order.Password, new(unit.Sudo)
	if s.order.Action == plan.Check {
		return s.look(ctx)
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer func() { s.unlock() }()
	there := s.owner()
	if err := s.order.Refuses(there); err != nil {
		return s.failed(plan.StepLock, err)
	}
	if s.done.Left = s.order.Spares(there); s.done.Left != "" {
		s.talk.step(plan.StepUnit, plan.StateOK, "left as it is: "+s.done.Left)
		return nil
	}
	switch s.order.Action {
	case plan.Check: // that was all
	case plan.Install:
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		s.heard = make(chan struct{})
		go func() {
			defer close(s.heard)
			s.talk.listen(lines, cancel)
		}()
		return s.install(ctx)
	case plan.Uninstall:
		return s.uninstall(ctx)
	case plan.Stop:
		return s.stop(ctx)
	}
	return cluster.Errorf(cluster.CodeInvalid, "no action %q", s.order.Action)
}

// check refuses what cannot be right before anything is touched.
func (s *session) check() error {
	home := s.order.Home
	if !filepath.IsAbs(home) || filepath.Clean(home) != home || home == "/" || strings.ContainsFunc(home, untrusted.IsControl) {
		return cluster.Invalid("home", "must be a clean absolute path")
	}
	if user, err := os.UserHomeDir(); err == nil && filepath.Clean(user) == home {
		return cluster.Invalid("home", "must not be the user's own home")
	}
	if s.order.Version == "" && s.order.Action != plan.Install {
		return nil
	}
	return s.checkVersion()
}

// checkVersion says whether this binary is the one that the order names: another's idea of an installation may differ.
func (s *session) checkVersion() error {
	if !versionID.MatchString(s.order.Version) {
		return cluster.Invalid("version", "cannot name a version")
	}
	own, err := hashFile(s.Exe)
	if err != nil {
		return fmt.Errorf("read this binary: %w", err)
	}
	there, err := hashFile(s.binary(s.order.Version))
	if err != nil {
		return fmt.Errorf("read the binary of the order: %w", err)
	}
	if !strings.HasSuffix(s.order.Version, "-"+own[:idDigits]) || there != own {
		return cluster.Errorf(cluster.CodeConflict, "the order is for version %s, and this binary is another", s.order.Version).
			WithHint("run it again: the binary is copied anew")
	}
	return nil
}

func (s *session) look(ctx context.Context) error {
	found := []plan.Finding{}
	if s.Checks != nil {
		found = s.Checks(ctx, s.order.Home)
	}
	data, err := json.Marshal(found)
	if err != nil {
		return fmt.Errorf("encode what was found: %w", err)
	}
	s.talk.say(plan.FromHost{Type: plan.TypeReport, Checks: data})
	return nil
}

// begin takes the home's lock and goes back from what a run before left in the middle.
func (s *session) begin(ctx context.Context) error {
	s.talk.step(plan.StepLock, plan.StateRunning, "")
	var err error
	if s.unlock, err = lockHome(ctx, s.order.Home, s.order.Operator); err != nil {
		return s.failed(plan.StepLock, err)
	}
	j, err := readJournal(s.order.Home)
	if err == nil && j != nil {
		if err = s.undo(ctx, j); err == nil {
			s.done.Changed = true
			s.talk.step(plan.StepLock, plan.StateChanged, "went back from an installation that was cut short")
			return nil
		}
		err = noWayBack(err)
	}
	if err != nil && s.order.Action == plan.Uninstall && s.order.Purge {
		s.forced = true
		if j != nil {
			s.stray = append(s.stray, j.Next)
			if j.Before.Unit != nil {
				s.stray = append(s.stray, *j.Before.Unit)
			}
		}
		s.talk.step(plan.StepLock, plan.StateOK, err.Error())
		return nil
	}
	if err != nil {
		s.unlock()
		return s.failed(plan.StepLock, err)
	}
	s.talk.step(plan.StepLock, plan.StateOK, "")
	return nil
}

// noWayBack is the error of an undo, with what may be done about it.
func noWayBack(err error) error {
	e := *cluster.AsError(err)
	e.Message = "go back from an installation that was cut short: " + e.Message
	e.Hint = "give the password of sudo with --ask-sudo where it was installed with sudo; else `mlxctl down --purge` for that host, then install it anew"
	return &e
}

// failed tells of a step that went wrong, and returns why.
func (s *session) failed(step string, err error) error {
	s.talk.say(plan.FromHost{Type: plan.TypeStep, Step: step, State: plan.StateFailed, Error: explain(err, s.order.Home), Log: s.done.Log})
	return err
}

func (s *session) settled(step string, changed bool, detail string) {
	state := plan.StateOK
	if changed {
		state, s.done.Changed = plan.StateChanged, true
	}
	s.talk.step(step, state, detail)
}

// explain makes the operator's error of any, in one line.
func explain(err error, home string) *cluster.Error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return cluster.Errorf(cluster.CodeConflict, "no space left for %s", home).WithHint("free some there, then run it again")
	}
	e := *cluster.AsError(err)
	e.Message = oneLine(e.Message)
	return &e
}
