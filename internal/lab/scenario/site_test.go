package scenario_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/lab"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

const (
	prompt = "Count from 1 to 5."
	answer = "1, 2, 3, 4, 5"
)

// Exit codes, as docs/exit-codes.md has them.
const (
	done    = 0
	failed  = 1
	partial = 3
)

// site is a lab and somebody at the keyboard of its operator's host.
type site struct {
	*lab.Lab

	t *testing.T
}

// newSite makes hosts that have nothing but the Python packages of the workers, which can be fetched from nowhere there.
func newSite(t *testing.T, hosts int, each func(i int, s *lab.Spec)) *site {
	t.Helper()
	o := lab.Options{Hosts: hosts, Binary: binary, Each: each}
	if lab.Available(t.Context()) == nil {
		enginetest.Environment(t)
		o.Cache = enginetest.CacheDir(t)
	}
	return &site{lab.New(t, o), t}
}

// as is the same for a part of a test.
func (s *site) as(t *testing.T) *site {
	t.Helper()
	return &site{s.Lab, t}
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

// on runs a command on a host as its user, within a time that is far beyond what it should take.
func (s *site) on(h *lab.Host, argv ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Minute)
	defer cancel()
	cmd := h.Command(ctx, h.User, argv...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ctx.Err() != nil {
		s.t.Fatalf("%s: %s: %v\n%s", h.Name, strings.Join(argv, " "), err, errOut.String())
	}
	return result{strings.TrimSpace(out.String()), strings.TrimSpace(errOut.String()), cmd.ProcessState.ExitCode()}
}

// mlxctl runs it at the operator's keyboard.
func (s *site) mlxctl(args ...string) result {
	s.t.Helper()
	return s.on(s.Operator, append([]string{"mlxctl"}, args...)...)
}

// must runs it and fails the test unless it ends with that code.
func (s *site) must(code int, args ...string) result {
	s.t.Helper()
	r := s.mlxctl(args...)
	if r.code != code {
		s.t.Fatalf("mlxctl %s ended with %d, want %d\n%s\n%s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

// up is how a person who agrees to everything forms the cluster: to the plan, and to keys that were never seen.
func up() []string { return []string{"up", "--yes"} }

func (s *site) up(code int) result {
	s.t.Helper()
	return s.must(code, up()...)
}

// node is what `mlxctl nodes -o json` says of one.
type node struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	State   string `json:"state"`
	Reason  string `json:"reason"`
	Version string `json:"version"`
}

func (s *site) nodes() map[string]node {
	s.t.Helper()
	var list struct {
		Items []node `json:"items"`
	}
	if r := s.must(done, "nodes", "-o", "json"); json.Unmarshal([]byte(r.out), &list) != nil {
		s.t.Fatalf("nodes says %q", r.out)
	}
	all := map[string]node{}
	for _, n := range list.Items {
		if _, twice := all[n.Name]; twice {
			s.t.Errorf("two nodes are called %q", n.Name)
		}
		all[n.Name] = n
	}
	return all
}

// find returns the node that a host is: nodes are called by the name of the host, or of the Mac.
func find(all map[string]node, h *lab.Host) (node, bool) {
	if n, ok := all[h.Name]; ok {
		return n, true
	}
	n, ok := all[h.Label]
	return n, ok
}

// serve checks that each of the hosts answers a prompt, and that it is its own answer.
func (s *site) serve(hosts ...*lab.Host) {
	s.t.Helper()
	all := s.nodes()
	for _, h := range hosts {
		n, ok := find(all, h)
		if !ok || n.State != "ready" {
			s.t.Errorf("%s is %+v", h.Name, n)
			continue
		}
		if r := s.mlxctl("run", "tiny", "--node", n.Name, "-n", prompt); r.code != done || r.out != answer {
			s.t.Errorf("%s answers %d %q %q", h.Name, r.code, r.out, r.err)
		}
	}
}

// idle checks that hosts have no agent.
func (s *site) idle(hosts ...*lab.Host) {
	s.t.Helper()
	for _, h := range hosts {
		if pids := h.PIDs("mlxctl", "agent"); len(pids) > 0 {
			s.t.Errorf("%s runs an agent: %v", h.Name, pids)
		}
	}
}

// whole checks that nothing half-installed runs: a version's folder is named by the hash of what it holds, and what
// runs is one of those.
func (s *site) whole(hosts ...*lab.Host) {
	s.t.Helper()
	script := `cd ~/.mlxctl/versions 2>/dev/null || exit 0
for pid in $(pgrep -u "$USER" -x mlxctl); do readlink /proc/$pid/exe; done
for d in *; do [ -f "$d/mlxctl" ] || continue; set -- $(sha256sum "$d/mlxctl"); case $d in *-$(echo "$1" | cut -c1-12)) ;; *) echo "bad: $d" ;; esac; done`
	for _, h := range hosts {
		r := s.on(h, "sh", "-c", script)
		for line := range strings.SplitSeq(r.out, "\n") {
			ok := line == "" || strings.HasPrefix(line, h.Home()+"/.mlxctl/versions/") && filepath.Base(line) == "mlxctl"
			if !ok {
				s.t.Errorf("%s runs or keeps %q", h.Name, line)
			}
		}
	}
}
