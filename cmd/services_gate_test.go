package cmd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// versionMark is what stands at the end of a binary that is another version than this test's; its version follows, and the
// service that cannot start, or nothing.
const versionMark = "\nmlxctl-test-version "

// markOf is what the binary of this process has at its end.
func markOf() (version, broken string) {
	version = "v0.0.0-test"
	exe, err := os.Executable()
	if err != nil {
		return version, ""
	}
	f, err := os.Open(exe)
	if err != nil {
		return version, ""
	}
	defer f.Close()
	const most = 100
	info, err := f.Stat()
	if err != nil {
		return version, ""
	}
	end, err := io.ReadAll(io.NewSectionReader(f, info.Size()-most, most))
	if i := bytes.LastIndex(end, []byte(versionMark)); err == nil && i >= 0 {
		version, broken, _ = strings.Cut(string(end[i+len(versionMark):]), " ")
	}
	return version, broken
}

// binaryOf makes one of another version, with a service that ends at once.
func binaryOf(t *testing.T, version, broken string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mlxctl")
	if err := os.WriteFile(path, fmt.Append(data, versionMark, version, " ", broken), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// runs is the version of the keeper of a home.
func (h *home) runs() string {
	h.t.Helper()
	s, err := service.Read(service.Options{Home: h.dir})
	if err != nil || !s.Running {
		h.t.Fatalf("%+v, %v", s, err)
	}
	version, _, _ := strings.Cut(s.Version, " ")
	return version
}

// keepAsking asks over HTTP without end; stop returns how often that was answered, and the first failure.
func (h *home) keepAsking() (stop func() (int, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	answered, failed := 0, error(nil)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, err := h.post(context.Background(), body("tiny", countTo(20)))
				if err == nil {
					var text []byte
					text, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err == nil && !strings.Contains(string(text), enginetest.Counted(1, 20)) {
						err = fmt.Errorf("%s: %s", resp.Status, text)
					}
				}
				mu.Lock()
				answered++
				if failed == nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, error) {
		cancel()
		wg.Wait()
		return answered, failed
	}
}

// A version of the services of this machine that does not come up is taken back, while those who ask wait; one that does
// stays.
func TestBadServicesAreTakenBack(t *testing.T) {
	t.Parallel()
	h := running(t)
	settings, err := os.ReadFile(localPath(h.dir))
	if err != nil {
		t.Fatal(err)
	}
	before := "v0.0.0-test"
	for _, c := range []struct {
		version, broken string
		says            string // an expression
	}{
		{"v0.0.1-bad", "controller", `the controller ended by itself [3-9] times \(exit status 1\), and wrote last: no such library; v0.0.0-test is back`},
		{"v0.0.1-bad", "agent", `the agent ended by itself [3-9] times \(exit status 1\), and wrote last: no such library; v0.0.0-test is back`},
		{version: "v0.0.2-good"},
		{"v0.0.3-bad", "keep", `the background keeper ended at once \(exit status 1\): no such library; v0.0.2-good is back`},
	} {
		h.exe = binaryOf(t, c.version, c.broken)
		stop, args := func() (int, error) { return 1, nil }, []string{"up", "--local"}
		if c.broken == "controller" { // an upgrade lets what is open finish first
			stop, args = h.keepAsking(), []string{"upgrade", "--all", "--yes"}
		}
		env := h.env
		if c.broken == "" {
			wants(t, "dry run", h.run("up", "--local", "--dry-run"), 0, "they run "+before+" of mlxctl, and this is "+c.version)
		}
		if c.broken != "" { // other settings, too
			h.env = append(slices.Clip(env), "MLXCTL_LOG_LEVEL=debug")
		}
		r := h.run(args...)
		h.env = env
		if n, err := stop(); n == 0 || err != nil {
			t.Errorf("%+v: of %d requests that came meanwhile: %v", c, n, err)
		}
		want := before
		if c.broken == "" {
			want = c.version
		}
		failed := c.broken != ""
		if (r.code != 0) != failed || !regexp.MustCompile(c.says).MatchString(r.out+r.err) {
			t.Errorf("%+v: %+v", c, r)
		}
		if got := h.runs(); got != want {
			t.Errorf("%+v: %s runs, want %s", c, got, want)
		}
		if now, err := os.ReadFile(localPath(h.dir)); failed && string(now) != string(settings) || err != nil {
			t.Errorf("%+v: settings %s, %v; before %s", c, now, err, settings)
		}
		if r := h.run("run", "tiny", countTo(9)); r.out != enginetest.Counted(1, 9) {
			t.Errorf("%+v: afterwards %+v", c, r)
		}
		before = want
		if settings, err = os.ReadFile(localPath(h.dir)); err != nil {
			t.Fatal(err)
		}
	}
	// What never came up leaves the settings of before: another try is not to move to other ports.
	wants(t, "down", h.run("down"), 0)
	h.env = append(slices.Clip(h.env), "MLXCTL_LOG_LEVEL=debug")
	wants(t, "nothing ran", h.run("up", "--local"), exitFailed, "the background keeper ended at once")
	if now, err := os.ReadFile(localPath(h.dir)); err != nil || string(now) != string(settings) {
		t.Errorf("settings %s, %v; before %s", now, err, settings)
	}
	if copies, err := os.ReadDir(filepath.Join(h.dir, serviceVersions)); err != nil || len(copies) > 2 {
		t.Errorf("copies %v, %v", copies, err)
	}
}
