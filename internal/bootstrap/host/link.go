package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	linkPoll = 100 * time.Millisecond
	// calledWait is how long an agent that listens is given to be dialled before the operator's side, which may have to
	// tell the controller first, is told where it listens.
	calledWait = 2 * time.Second
	// mostEnds is how often an agent that is to come up may end by itself: once may be a mishap, and a loop is none.
	mostEnds  = 3
	tailLines = 20
	tailBytes = 16 << 10
)

// errDenied is an agent that may not dial and does not listen.
var errDenied = errors.New("the agent may dial nobody on the local network")

// link waits until the agent that was started has reached its controller, or listens for it where it is set up so.
func (s *session) link(ctx context.Context, t *target) (*plan.Link, error) {
	gate := s.order.Gate
	if gate <= 0 {
		gate = defaultGate
	}
	began := time.Now()
	tick := time.NewTicker(linkPoll)
	defer tick.Stop()
	for {
		status, err := t.driver.Status(ctx)
		if err != nil {
			return nil, fmt.Errorf("look at the agent: %w", err)
		}
		l := s.readLink()
		ours := s.isOurs(t, l, status)
		switch {
		case !ours:
		case l.State == plan.LinkConnected:
			return l, nil
		case t.settings.ReverseAddr != "" && l.State != plan.LinkRefused && time.Since(began) > calledWait:
			l.Reverse = true
			return l, nil
		case t.settings.ReverseAddr == "" && l.State == plan.LinkDenied:
			return nil, errDenied
		}
		if ended := status.Ended - t.ended; ended >= mostEnds {
			return nil, s.keepsEnding(ended)
		}
		if time.Since(began) > gate {
			return nil, notLinked(l, ours, gate)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// readLink returns nil where the agent says nothing yet.
func (s *session) readLink() *plan.Link {
	data, err := readFile(s.path("run", "link.json"))
	if err != nil || data == nil {
		return nil
	}
	var l plan.Link
	if json.Unmarshal(data, &l) != nil {
		return nil
	}
	l.URL, l.Error, l.Version = oneLine(l.URL), oneLine(l.Error), oneLine(l.Version)
	return &l
}

var notVersion = regexp.MustCompile(`[^0-9A-Za-z.+-]`)

// isOurs says that it is the agent of this version, run by this unit, that speaks: a file may be left by another.
func (s *session) isOurs(t *target, l *plan.Link, status unit.Status) bool {
	if l == nil || l.Node != t.identity.Node || notVersion.ReplaceAllString(l.Version, "_") != s.order.Version[:len(s.order.Version)-idDigits-1] {
		return false
	}
	return status.Running && status.PID == l.PID
}

// keepsEnding is the error of an agent that does not stay up, with the last that it wrote.
func (s *session) keepsEnding(times int) error {
	last := "wrote nothing to its log"
	if lines := s.logTail(s.logged); len(lines) > 0 {
		last = "wrote last: " + lines[len(lines)-1]
	}
	return cluster.Errorf(cluster.CodeInternal, "the agent ended by itself %d times, and %s", times, last).WithHint("its log says more: %s", s.Unit.Log())
}

func notLinked(l *plan.Link, ours bool, gate time.Duration) error {
	switch {
	case l == nil:
		return cluster.Errorf(cluster.CodeTimeout, "the agent did not come up within %s", gate).WithHint("its log says why")
	case !ours:
		return cluster.Errorf(cluster.CodeTimeout, "the agent did not stay up within %s", gate).WithHint("its log says why")
	case l.State == plan.LinkRefused:
		return cluster.Errorf(cluster.CodeUnauthorized, "the controller does not believe this node: %s", l.Error)
	}
	text := "the agent did not reach its controller within " + gate.String()
	if l.Error != "" {
		text += ": " + l.Error
	}
	return cluster.Errorf(cluster.CodeUnreachable, "%s", text).WithHint("a firewall may be between, or the controller's address is another as seen from there")
}

func describe(l *plan.Link) string {
	switch {
	case l.State != plan.LinkConnected:
		return "it waits for its controller to dial it"
	case l.Reverse:
		return "dialled by its controller"
	}
	return l.URL
}

// openLog makes sure that the log is there and the user's own: launchd would make it root's.
func (s *session) openLog() error {
	if err := os.MkdirAll(s.path("log"), 0o700); err != nil {
		return fmt.Errorf("make folder of logs: %w", err)
	}
	f, err := os.OpenFile(s.Unit.Log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	return f.Close()
}

func (s *session) logSize() int64 {
	info, err := os.Stat(s.Unit.Log())
	if err != nil {
		return 0
	}
	return info.Size()
}

// logTail is the end of what the agent wrote since the log had a size.
func (s *session) logTail(since int64) []string {
	f, err := os.Open(s.Unit.Log())
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	if info.Size() < since { // another file by now
		since = 0
	}
	if _, err := f.Seek(max(since, info.Size()-tailBytes), io.SeekStart); err != nil {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil || len(data) == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	for i := range lines {
		lines[i] = oneLine(lines[i])
	}
	return lines
}
