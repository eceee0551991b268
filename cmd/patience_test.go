package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// replaceServices starts the services of a home anew, as an upgrade does.
func (h *home) replaceServices() {
	h.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	data, err := os.ReadFile(localPath(h.dir))
	var l localSettings
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	o := service.Options{
		Home: h.dir, Exe: exe, Arg0: "mlxctl", KeepArgs: []string{"keep"}, Env: h.env, Listen: l.HTTPAddr, Version: "next",
		Finish: time.Minute, Log: slog.New(slog.DiscardHandler),
	}
	release, err := service.Acquire(h.t.Context(), o)
	if err != nil {
		h.t.Fatal(err)
	}
	defer release()
	if changed, err := service.Start(h.t.Context(), o); err != nil || !changed {
		h.t.Fatalf("changed %v, %v", changed, err)
	}
}

// While the services of this machine are replaced, run fails never: what has begun is answered to its end, and the rest waits.
func TestRunsOutliveTheReplacementOfTheController(t *testing.T) {
	t.Parallel()
	h := running(t)
	loading := regexp.MustCompile(`^loading tiny on [a-z0-9]+…\n$`)
	ask := func(to int) error {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		var out, errOut bytes.Buffer
		cmd := h.command(ctx, "run", "tiny", countTo(to))
		cmd.Stdout, cmd.Stderr = &out, &errOut
		err := cmd.Run()
		said := errOut.String() // of a model that is loaded again
		if err != nil || out.String() != enginetest.Counted(1, to) || (said != "" && !loading.MatchString(said)) {
			return errors.Join(err, fmt.Errorf("printed %q, said %q", out.String(), said))
		}
		return nil
	}
	replaced := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := 0; n < 3 || !isClosed(replaced); n++ {
				if err := ask([]int{20, 50, 900}[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	h.await("a request", func() bool { return len(h.snapshot().Requests) > 0 })
	for range 2 {
		h.replaceServices()
		if err := ask(5); err != nil {
			t.Error(err)
		}
	}
	before := h.pid("controller")
	wants(t, "set", h.run("config", "set", "models.idle_ttl", "47m"), 0)
	wants(t, "up", h.run("up", "--local"), 0)
	if h.pid("controller") == before {
		t.Error("other settings started no other controller")
	}
	close(replaced)
	wg.Wait()
}

// Who waits for a controller that is to come can give up, and does not wait for one that is not.
func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	away := cluster.Errorf(cluster.CodeUnreachable, "it is away")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	home, tries, isBack := t.TempDir(), 0, false
	answers := &fakeCluster{}
	d := &deps{
		env: func(string) (string, bool) { return "", false },
		dial: func(context.Context, *config.Config) (clusterClient, error) {
			if tries++; tries == 3 && !isBack {
				cancel()
			}
			if tries > 2 && isBack {
				return answers, nil
			}
			return nil, away
		},
	}
	cfg := &config.Config{}
	cfg.Dirs.Home = home
	does := func(err error, begun bool) func(clusterClient) (bool, error) {
		return func(clusterClient) (bool, error) { return begun, err }
	}
	if err := d.patiently(ctx, cfg, does(nil, false)); !errors.Is(err, away) || tries != 1 {
		t.Errorf("nothing is to run: %v after %d", err, tries)
	}
	if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "run", "desired"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tries = 0
	if err := d.patiently(ctx, cfg, does(nil, false)); !errors.Is(err, context.Canceled) || tries != 3 {
		t.Errorf("given up: %v after %d", err, tries)
	}
	tries, isBack = 0, true
	if err := d.patiently(t.Context(), cfg, does(nil, false)); err != nil || tries != 3 {
		t.Errorf("it is back: %v after %d", err, tries)
	}
	if err := d.patiently(t.Context(), cfg, does(away, true)); !errors.Is(err, away) || tries != 4 {
		t.Errorf("it had begun: %v after %d", err, tries)
	}
}
