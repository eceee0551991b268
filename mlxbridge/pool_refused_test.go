package mlxbridge_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func (b *bench) askIn(tb testing.TB, m cluster.Model, dir string) error {
	tb.Helper()
	return b.Generate(tb.Context(), m, dir, enginetest.Count(m.Name, 1), func(cluster.Chunk) {})
}

func writeConfig(tb testing.TB, dir, config string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// What cannot be loaded takes the place of what can only once, until its folder changes.
func TestPoolRemembersWhatCannotBeLoaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeConfig(t, dir, "{")
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{BudgetBytes: 10 * gib})
		good, bad := model("good", 6*gib), model("bad", 6*gib)
		b.mustAsk(t, good, 1)
		b.fake.SetScript(enginetest.Script{Refuse: cluster.Errorf(cluster.CodeBadModel, "tokenizer.json is no JSON")})
		mustCode(t, b.askIn(t, bad, dir), cluster.CodeBadModel)
		b.fake.SetScript(enginetest.Script{})
		b.mustAsk(t, good, 1)

		for range 3 {
			mustCode(t, b.askIn(t, bad, dir), cluster.CodeBadModel)
			mustCode(t, b.Load(t.Context(), bad, dir, false), cluster.CodeBadModel)
		}
		if got := b.loaded(); got != "good" {
			t.Errorf("in memory: %s", got)
		}
		writeConfig(t, dir, `{"model_type": "llama"}`)
		mustCode(t, b.askIn(t, bad, dir), "")
	})
}

func TestPoolTriesAgainLaterWhatCouldNotBeLoaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeConfig(t, dir, "{}")
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{Refuse: cluster.Errorf(cluster.CodeBadModel, "weights cannot be read")}, mlxbridge.PoolOptions{})
		mustCode(t, b.askIn(t, model("m", gib), dir), cluster.CodeBadModel)
		b.fake.SetScript(enginetest.Script{})
		mustCode(t, b.askIn(t, model("m", gib), dir), cluster.CodeBadModel)
		pass(11 * time.Minute)
		mustCode(t, b.askIn(t, model("m", gib), dir), "")
	})
}

// particular is a launcher that knows of some folders that they cannot be loaded.
type particular struct {
	*enginetest.Launcher
	refuses string
}

func (l particular) Examine(name, _ string) error {
	if name == l.refuses {
		return cluster.Errorf(cluster.CodeUnsupported, "config.json names code of its own")
	}
	return nil
}

func TestPoolEvictsNothingForWhatIsKnownNotToLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeConfig(t, dir, "{}")
	synctest.Test(t, func(t *testing.T) {
		fake := enginetest.NewLauncher(enginetest.Script{})
		pool := mlxbridge.NewPool(mlxbridge.PoolOptions{Launcher: particular{fake, "bad"}, BudgetBytes: 10 * gib})
		defer func() { mustCode(t, pool.Close(t.Context()), "") }()
		b := &bench{Pool: pool, fake: fake}
		b.mustAsk(t, model("good", 6*gib), 1)
		mustCode(t, b.askIn(t, model("bad", 6*gib), dir), cluster.CodeUnsupported)
		if got := b.replica(t, "good"); got.State != cluster.ReplicaReady || fake.Launches() != 1 {
			t.Errorf("%d launches, %+v", fake.Launches(), got)
		}
	})
}

func TestWorkerLauncherExaminesTheConfiguration(t *testing.T) {
	t.Parallel()
	launcher := enginetest.RealLauncher(t)
	tiny := enginetest.Tiny(t)
	mustCode(t, launcher.Examine("tiny", tiny.Dir), "")
	mustCode(t, launcher.Examine("none", filepath.Join(t.TempDir(), "none")), "")
	for says, change := range map[string]map[string]any{
		"code of its own": {"model_file": "x.py"},
		"model_type wat":  {"model_type": "wat"},
		"":                {"model_type": "mistral"}, // a name for another one
	} {
		dir := t.TempDir()
		data, err := os.ReadFile(filepath.Join(tiny.Dir, "config.json"))
		config := map[string]any{}
		if err != nil || json.Unmarshal(data, &config) != nil {
			t.Fatal(err)
		}
		maps.Copy(config, change)
		data, err = json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		writeConfig(t, dir, string(data))
		err = launcher.Examine("m", dir)
		if says == "" {
			mustCode(t, err, "")
			continue
		}
		mustCode(t, err, cluster.CodeUnsupported)
		if err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("it does not say %q: %v", says, err)
		}
	}
}
