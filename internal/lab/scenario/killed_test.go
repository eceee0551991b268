package scenario_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/lab"
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
	s.watchPrograms()
	for round := range 6 {
		events := random.IntN(56) // three hosts tell of some fifty
		delay := time.Duration(random.IntN(200)) * time.Millisecond
		t.Logf("round %d: killed %v after %d events", round, delay, events)
		s.killedUp(events, delay)
		s.whole(s.Hosts...)
		for _, h := range s.Hosts {
			s.settled(h)
		}
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

// settled waits until a host has got over the end of its operator: it runs what was committed, or nothing.
func (s *site) settled(h *lab.Host) {
	s.t.Helper()
	s.wait(h.Name+" runs what was committed, or nothing", func() bool {
		if len(h.PIDs("mlxctl", "agent host")) > 0 || len(h.PIDs("mlxctl\x00agent\x00host")) > 0 {
			return false // it goes back
		}
		r := s.on(h, "sh", "-c", "cd .mlxctl 2>/dev/null || exit 0; if [ -e install.json ]; then echo open; elif [ -L current ]; then echo committed; fi")
		runs := len(h.PIDs("current/mlxctl\x00agent")) > 0
		return r.out != "open" && runs == (r.out == "committed")
	})
}

// watchPrograms looks, until the test is over, at what runs out of the nodes' folders: nothing but this binary, whole, out
// of a folder that is named by its hash. What runs for less than a tenth of a second may not be seen.
func (s *site) watchPrograms() {
	s.t.Helper()
	data, err := os.ReadFile(binary)
	if err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	want := hex.EncodeToString(sum[:])
	seen, stop, over := map[string]string{}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, h := range s.Hosts {
				programs(h, seen)
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	s.t.Cleanup(func() {
		close(stop)
		<-over
		if len(seen) == 0 {
			s.t.Error("no program of a node was ever seen")
		}
		for which, hash := range seen {
			if !strings.HasSuffix(which, "-"+want[:12]+"/mlxctl") || hash != want {
				s.t.Errorf("%s ran, whose hash is %s", which, hash)
			}
		}
	})
}

// programs adds what a host runs out of its node's folder, with the hash of what it holds.
func programs(h *lab.Host, seen map[string]string) {
	for _, pid := range h.PIDs(".mlxctl") {
		file := fmt.Sprintf("/proc/%d/exe", pid)
		exe, err := os.Readlink(file)
		exe = strings.TrimSuffix(exe, " (deleted)")
		if err != nil || !strings.Contains(exe, "/.mlxctl/") {
			continue // it has ended, or is a shell
		}
		info, err := os.Stat(file)
		if err != nil {
			continue
		}
		which := fmt.Sprintf("%s inode %d: %s", h.Name, info.Sys().(*syscall.Stat_t).Ino, exe)
		if _, known := seen[which]; known {
			continue
		}
		if data, err := os.ReadFile(file); err == nil {
			sum := sha256.Sum256(data)
			seen[which] = hex.EncodeToString(sum[:])
		}
	}
}
