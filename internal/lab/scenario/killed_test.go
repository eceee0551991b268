package scenario_test

import (
	"bufio"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// seed is that of MLXCTL_LAB_SEED, or another each time.
func seed(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv("MLXCTL_LAB_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return uint64(time.Now().UnixNano())
}

// `up` may be killed at any moment: nothing half-installed runs, and the next one completes.
func TestUpKilledAtAnyStep(t *testing.T) {
	s := newSite(t, 3, nil)
	n := seed(t)
	t.Logf("MLXCTL_LAB_SEED=%d", n)
	random := rand.New(rand.NewPCG(n, 0))
	for round := range 8 {
		events := random.IntN(30)
		delay := time.Duration(random.IntN(200)) * time.Millisecond
		t.Logf("round %d: killed %v after %d events", round, delay, events)
		s.killedUp(events, delay)
		s.whole(s.Hosts...)
		if round%3 == 2 { // else the next one finds what this one left
			s.up(done)
			s.serve(s.Hosts...)
			all := s.nodes()
			for _, h := range s.Hosts {
				if n, ok := find(all, h); ok {
					s.must(done, "nodes", "rm", n.Name, "--yes")
				}
			}
			s.idle(s.Hosts...)
			for _, h := range s.Hosts { // what was taken away with the rest, and can be fetched from nowhere
				s.on(h, "sh", "-c", "mkdir -p .mlxctl/cache/python && ln -s /opt/python/* .mlxctl/cache/python/")
			}
		}
	}
	s.up(done)
	s.serve(s.Hosts...)
	s.whole(s.Hosts...)
}

// killedUp starts `up` and kills it, by SIGKILL, some time after so many events; it may have ended by then.
func (s *site) killedUp(events int, delay time.Duration) {
	s.t.Helper()
	cmd := s.Operator.Command(s.t.Context(), s.Operator.User, append(append([]string{"mlxctl"}, up()...), "-o", "json")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for range events {
		if !lines.Scan() {
			break
		}
	}
	<-time.After(delay)
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := s.Operator.Kill("mlxctl", "up", "--yes"); err != nil {
		s.t.Fatal(err)
	}
}
