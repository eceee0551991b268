package bootstrap_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// stand-in for the host's side: what Order.Operator says is what it does.
type standIn struct {
	in    *json.Decoder
	out   io.Writer
	order plan.Order
	dies  string // at this step
}

func hostSide(in io.Reader, out, errs io.Writer) int {
	s := &standIn{in: json.NewDecoder(bufio.NewReader(in)), out: out}
	if err := s.in.Decode(&s.order); err != nil {
		return 2
	}
	what, arg, _ := strings.Cut(s.order.Operator, ":")
	s.record("pid", fmt.Sprint(os.Getpid()))
	switch what {
	case "crash":
		s.dies = arg
		_, _ = fmt.Fprintf(errs, "panic: \x1b[31mat %s\x1b[0m\n", arg)
		return s.install()
	case "garbage":
		_, _ = io.WriteString(out, "Welcome to the attic!\n\x00\xff\xfe{]\n[1,2,3]\n{\"type\":\"dance\",\"detail\":\"\\u001b[2J\"}\n{\"type\":7}\n\n")
		return s.install()
	case "endless":
		for {
			if _, err := io.WriteString(out, strings.Repeat("a", 4096)); err != nil {
				return 4
			}
		}
	case "much":
		for {
			if _, err := io.WriteString(out, `{"type":"dance"}`+"\n"); err != nil {
				return 4
			}
		}
	case "silent":
		s.step(plan.StepLock, plan.StateOK)
		_, _ = io.Copy(io.Discard, in)
		s.record("rolled-back", "yes")
		return 1
	case "frozen":
		s.step(plan.StepLock, plan.StateOK)
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "twice":
		s.say(plan.FromHost{Type: plan.TypeKey, Node: "n1", Key: "UKEY"})
		_, _ = s.hear()
		s.say(plan.FromHost{Type: plan.TypeKey, Node: "n2", Key: "UOTHER"})
		return s.last()
	case "poses":
		return s.pose(arg)
	case "wants":
		s.ask()
		s.say(plan.FromHost{Type: plan.TypeNeed, Folder: s.order.Home + "/w", Files: []plan.File{{Name: arg}}})
		return s.last()
	case "outside":
		s.say(plan.FromHost{Type: plan.TypeNeed, Folder: arg, Files: s.ask()})
		return s.last()
	case "refuses":
		s.say(plan.FromHost{Type: plan.TypeStep, Step: plan.StepUnit, State: plan.StateFailed, Log: []string{"no\x1b]0;owned\x07 metal"}})
		s.say(plan.FromHost{Type: plan.TypeDone, Error: cluster.Errorf(cluster.CodeConflict, "locked by \x1b[31manna\u202e\nagain").WithHint("wait")})
		return 1
	case "checks":
		found, _ := json.Marshal([]plan.Finding{{Check: "python", State: plan.FindingOK, Message: "3.12\x07"}})
		s.say(plan.FromHost{Type: plan.TypeReport, Checks: found})
		s.say(plan.FromHost{Type: plan.TypeDone})
		return 0
	}
	return s.install()
}

func (s *standIn) record(name, text string) {
	_ = os.MkdirAll(s.order.Home, 0o700)
	_ = os.WriteFile(filepath.Join(s.order.Home, name), []byte(text), 0o600)
}

func (s *standIn) say(m plan.FromHost) {
	data, _ := json.Marshal(m)
	_, _ = s.out.Write(append(data, '\n'))
}

func (s *standIn) step(name string, state plan.State) {
	if s.dies == name {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	s.say(plan.FromHost{Type: plan.TypeStep, Step: name, State: state})
}

func (s *standIn) hear() (plan.ToHost, bool) {
	var m plan.ToHost
	if err := s.in.Decode(&m); err != nil {
		s.record("rolled-back", err.Error())
		return m, false
	}
	return m, true
}

// ask has the packages listed that could be sent.
func (s *standIn) ask() []plan.File {
	s.say(plan.FromHost{Type: plan.TypeAsk})
	m, _ := s.hear()
	return m.Files
}

// last hears that it is to undo everything, and says so.
func (s *standIn) last() int {
	m, ok := s.hear()
	if !ok {
		return 1
	}
	s.record("aborted", m.Reason)
	s.say(plan.FromHost{Type: plan.TypeDone, Error: cluster.Errorf(cluster.CodeConflict, "undone")})
	return 1
}

func (s *standIn) install() int {
	s.step(plan.StepLock, plan.StateOK)
	s.step(plan.StepIdentity, plan.StateOK)
	s.say(plan.FromHost{Type: plan.TypeKey, Node: "n1", Key: "UKEY", Hardware: "hw"})
	m, ok := s.hear()
	if !ok || m.Type != plan.TypeCredentials {
		return s.undo(m)
	}
	s.record("jwt", m.JWT)
	s.step(plan.StepJoin, plan.StateChanged)
	if s.order.CanSend {
		s.say(plan.FromHost{Type: plan.TypeNeed, Folder: filepath.Join(s.order.Home, "cache", "wheels"), Files: s.ask()})
		if m, ok = s.hear(); !ok || m.Type != plan.TypeHave {
			return s.undo(m)
		}
	}
	for _, name := range []string{plan.StepPython, plan.StepUnit, plan.StepLink} {
		s.step(name, plan.StateChanged)
	}
	s.say(plan.FromHost{Type: plan.TypeLinked, Unit: plan.UnitKeeper, Link: &plan.Link{State: plan.LinkConnected, Node: "n1", Version: "v"}})
	if m, ok = s.hear(); !ok || m.Type != plan.TypeCommit {
		return s.undo(m)
	}
	s.step(plan.StepCommit, plan.StateChanged)
	s.record("committed", s.order.Password)
	s.say(plan.FromHost{Type: plan.TypeDone, Node: "n1", Unit: plan.UnitKeeper, Changed: true})
	return 0
}

// pose does all that it is asked to, and says in one message that it is node n2.
func (s *standIn) pose(in string) int {
	linked := plan.FromHost{Type: plan.TypeLinked, Unit: plan.UnitKeeper, Link: &plan.Link{State: plan.LinkConnected, Node: "n1", Version: "v"}}
	if in == "unsigned" {
		s.say(linked)
		return s.last()
	}
	s.say(plan.FromHost{Type: plan.TypeKey, Node: "n1", Key: "UKEY"})
	_, _ = s.hear()
	switch in {
	case plan.TypeStep:
		s.say(plan.FromHost{Type: plan.TypeStep, Step: plan.StepUnit, State: plan.StateOK, Node: "n2"})
		return s.last()
	case plan.TypeLinked:
		linked.Node = "n2"
		s.say(linked)
		return s.last()
	}
	s.say(linked)
	_, _ = s.hear()
	s.say(plan.FromHost{Type: plan.TypeDone, Node: "n2", Unit: plan.UnitKeeper})
	return 0
}

func (s *standIn) undo(m plan.ToHost) int {
	s.record("aborted", m.Reason)
	s.say(plan.FromHost{Type: plan.TypeDone, Error: cluster.Errorf(cluster.CodeConflict, "undone")})
	return 1
}
