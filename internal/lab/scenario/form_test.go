package scenario_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// Eight hosts, known by nothing but their adverts, serve after one command. They survive what happens to Macs, and can be
// what they were before.
func TestCluster(t *testing.T) {
	s := newSite(t, 8, nil)
	began := time.Now()
	s.up(done)
	t.Logf("up of 8 hosts took %v", time.Since(began).Round(100*time.Millisecond))
	s.serve(s.Hosts...)
	s.whole(s.Hosts...)
	s.version(version, s.Hosts...)
	for _, then := range []struct {
		what string
		run  func(s *site)
	}{
		{"a second up changes nothing", changesNothing},
		{"it comes back", comesBack},
		{"down --purge leaves nothing", purgeLeavesNothing},
	} {
		if !t.Run(then.what, func(t *testing.T) { then.run(s.as(t)) }) {
			t.FailNow()
		}
	}
}

func changesNothing(s *site) {
	t := s.t
	t.Helper()
	pids := map[string]int{}
	for _, h := range s.Hosts {
		if found := h.PIDs("current/mlxctl", "agent"); len(found) > 0 {
			pids[h.Name] = found[0]
		}
	}
	began := time.Now()
	r := s.up(done)
	// Three seconds is the promise on a Mac; here nine machines share what may be two cores.
	t.Logf("up that changes nothing took %v", time.Since(began).Round(100*time.Millisecond))
	if !strings.Contains(r.out+r.err, "0 changed") {
		t.Errorf("second up says %q %q", r.out, r.err)
	}
	for _, h := range s.Hosts {
		if found := h.PIDs("current/mlxctl", "agent"); len(found) == 0 || found[0] != pids[h.Name] {
			t.Errorf("the agent of %s was started again", h.Name)
		}
	}
}

// comesBack has the cluster survive power cuts, new addresses and closed lids.
func comesBack(s *site) {
	t := s.t
	t.Helper()
	if err := s.Hosts[0].Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Hosts[1].ChangeAddress(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hosts[2].Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.until("the frozen host is not ready", func() bool { n, _ := find(s.nodes(), s.Hosts[2]); return n.State != "ready" })
	if err := s.Hosts[2].Thaw(); err != nil {
		t.Fatal(err)
	}
	s.ready(s.Hosts...)
	if err := s.Operator.ChangeAddress(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Until it notices, the controller takes nodes for ready that have lost it.
	for _, h := range s.Hosts {
		s.until(h.Name+" answers", func() bool {
			n, _ := find(s.nodes(), h)
			return n.State == "ready" && s.mlxctl("run", "tiny", "--node", n.Name, "-n", prompt).out == answer
		})
	}
	s.serve(s.Hosts...)
}

// purgeLeavesNothing takes away what was installed, with nothing left, also when the bus is dead.
func purgeLeavesNothing(s *site) {
	t := s.t
	t.Helper()
	if n, err := s.Operator.Kill("mlxctl", "controller"); n == 0 || err != nil {
		t.Fatalf("killed %d, %v", n, err)
	}
	s.must(done, "down", "--purge", "--yes")
	s.idle(s.Hosts...)
	for _, h := range s.Hosts {
		if r := s.on(h, "sh", "-c", "ls -d ~/.mlxctl /etc/service/*mlx* 2>/dev/null"); r.out != "" {
			t.Errorf("%s keeps %q", h.Name, r.out)
		}
	}
}

// ready waits until all of these hosts are.
func (s *site) ready(hosts ...*lab.Host) {
	s.t.Helper()
	s.until("all hosts are ready", func() bool {
		all := s.nodes()
		for _, h := range hosts {
			if n, _ := find(all, h); n.State != "ready" {
				return false
			}
		}
		return true
	})
}

func (s *site) until(what string, is func() bool) {
	s.t.Helper()
	if !within(patience, is) {
		s.t.Fatalf("not within %s: %s: %+v", patience, what, s.nodes())
	}
}

// wait is until for when the controller cannot be asked.
func (s *site) wait(what string, is func() bool) {
	s.t.Helper()
	if !within(patience, is) {
		s.t.Fatalf("not within %s: %s", patience, what)
	}
}

// patience ends what hangs; it says nothing about how long anything may take.
const patience = 5 * time.Minute

func within(d time.Duration, is func() bool) bool {
	deadline := time.After(d)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			return false
		case <-tick.C:
		}
	}
	return true
}
