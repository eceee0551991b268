package cmd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/freeport"
	"github.com/mlxctl/mlxctl/internal/iostreams"
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
		{"v0.0.1-bad", "controller", `the controller ended by itself 3 times \(exit status 1\), and wrote last: no such library; v0.0.0-test is back`},
		{"v0.0.1-bad", "agent", `the agent ended by itself 3 times \(exit status 1\), and wrote last: no such library; v0.0.0-test is back`},
		{version: "v0.0.2-good"},
		{"v0.0.2-good", "settings", `the settings of before are back`},
		{"v0.0.3-bad", "keep", `the background keeper ended at once \(exit status 1\): no such library; v0.0.2-good is back`},
	} {
		if c.broken != "settings" {
			h.exe = binaryOf(t, c.version, c.broken)
		}
		stop, args := func() (int, error) { return 1, nil }, []string{"up", "--local"}
		if c.broken == "controller" { // an upgrade lets what is open finish first
			stop, args = h.keepAsking(), []string{"upgrade", "--all", "--yes"}
		}
		if c.broken == "settings" {
			args = append(args, "--nats-url", "nats://"+freeport.Addr(t)) // nobody is there
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
	// The last version, the one before, and the one that never came up, which goes with the next that does.
	if copies, err := filepath.Glob(filepath.Join(h.dir, serviceVersions, "*", "mlxctl")); err != nil || len(copies) > 3 {
		t.Errorf("copies %v, %v", copies, err)
	}
}

// What another command made of the services since is left as it is.
func TestGoesBackOnlyFromItsOwn(t *testing.T) {
	t.Parallel()
	const before, own, other = `{"name":"before"}`, `{"name":"own"}`, `{"name":"other"}`
	for name, c := range map[string]struct {
		there              string
		ranBefore, started bool
		want               string
	}{
		"never came to its keeper":             {own, false, false, before},
		"another command wrote other settings": {other, false, false, other},
		"another command started others":       {other, true, true, other},
		"it was stopped":                       {own, true, true, own},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			if err := config.WriteFile(localPath(home), []byte(c.there)); err != nil {
				t.Fatal(err)
			}
			exe := filepath.Join(home, "services", "of before", "mlxctl")
			if err := os.MkdirAll(filepath.Dir(exe), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(exe, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			s, _, _, _ := iostreams.Test()
			opts := &upOptions{deps: &deps{streams: s, exe: exe, env: func(string) (string, bool) { return "", false }}}
			a := &attempt{
				former: &formerServices{
					Status:   service.Status{Running: c.ranBefore, Version: "v0", Exe: exe, Settings: digestOf([]byte(before))},
					settings: []byte(before),
				},
				version: "v1", settings: digestOf([]byte(own)), isStarted: c.started,
			}
			if isBack, err := opts.startFormer(t.Context(), home, a, s.NewProgress(true)); isBack || err != nil {
				t.Errorf("started what was before: %v, %v", isBack, err)
			}
			if now, err := os.ReadFile(localPath(home)); err != nil || string(now) != c.want {
				t.Errorf("left settings %s, %v, want %s", now, err, c.want)
			}
		})
	}
}

func TestOwnServices(t *testing.T) {
	t.Parallel()
	own := []byte("own")
	keeper := func(pid int) service.Proc { return service.Proc{PID: pid} }
	a := &attempt{
		former:  &formerServices{Status: service.Status{Running: true, Version: "v0", Settings: "s0", Keeper: keeper(1)}},
		version: "v1", settings: digestOf(own), isStarted: true,
	}
	for name, c := range map[string]struct {
		now  service.Status
		want bool
	}{
		"what it started":           {service.Status{Desired: true, Running: true, Version: "v1", Settings: a.settings, Keeper: keeper(2)}, true},
		"what was there before":     {service.Status{Desired: true, Running: true, Version: "v0", Settings: "s0", Keeper: keeper(1)}, true},
		"another version":           {service.Status{Desired: true, Running: true, Version: "v2", Settings: a.settings, Keeper: keeper(2)}, false},
		"other settings":            {service.Status{Desired: true, Running: true, Version: "v1", Settings: "s2", Keeper: keeper(2)}, false},
		"a keeper that ended":       {service.Status{Desired: true}, true},
		"a keeper that was stopped": {service.Status{}, false},
	} {
		if got := a.isOwn(&formerServices{c.now, own}); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Where the binary cannot be copied nothing is touched, and so no settings are written.
func TestNoCopyNoSettings(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	i := invocation{env: map[string]string{"MLXCTL_HOME": home, "MLXCTL_HTTP_ADDR": "127.0.0.1:0", "MLXCTL_NATS_ADDR": "127.0.0.1:0"}}
	r := i.run(t, "up", "--local")
	if r.code == 0 || !strings.Contains(r.err, "cannot copy") {
		t.Errorf("%+v", r)
	}
	for _, path := range []string{localPath(home), trustDir(home)} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was made", path)
		}
	}
}

func TestHealthThatBreaksOff(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "ok")
	}))
	defer s.Close()
	err := askHealth(t.Context(), s.URL)
	if cluster.CodeOf(err) != cluster.CodeUnreachable || !strings.Contains(err.Error(), "breaks off") || !strings.Contains(err.Error(), io.ErrUnexpectedEOF.Error()) {
		t.Errorf("got %v", err)
	}
}
