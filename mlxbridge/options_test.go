package mlxbridge_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestPoolLaunchesAModelWithItsOptions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{
			BudgetBytes: 30 * gib,
			Options:     mlxbridge.ModelOptions{SessionTTL: time.Minute, Wired: "off", PrefixShare: 10},
			Models: []mlxbridge.ModelOptions{{
				Name: "org/m", Adapter: "/adapters/a", Draft: "small", KVBits: 8, StoredBits: 4, MaxRows: 3, Context: 2048,
				MemoryBytes: 15 * gib / 4, PrefixBytes: 7, SpillDir: "/spill", SpillBytes: 9, Speculate: "off",
			}},
			Resolve: func(_ context.Context, name string) (cluster.Model, string, error) {
				return cluster.Model{}, "/models/" + name, nil
			},
		})
		b.mustLoad(t, elastic("org/m"), false)
		got := b.engineOf(t, "org/m").Spec()
		want := mlxbridge.LaunchOptions{StoredBits: 4, SpillDir: "/spill/org--m", SpillBytes: 9, Speculate: "off", Context: 2048}
		if got.Options != want || got.Adapter != "/adapters/a" || got.Draft != "/models/small" || got.KVBits != 8 ||
			got.MaxRows != 3 || got.PrefixBytes != 7 || got.MemoryBytes > 15*gib/4 {
			t.Errorf("launched with %+v", got)
		}
		if r := b.replica(t, "org/m"); r.Adapter != "/adapters/a" || r.Draft != "small" || r.KVBits != 8 || r.Slots != 3 {
			t.Errorf("it says of itself %+v", r)
		}
		b.mustLoad(t, elastic("n"), false)
		if r := b.replica(t, "n"); r.Adapter+r.Draft != "" || r.KVBits != 0 {
			t.Errorf("one without options says of itself %+v", r)
		}
		got = b.engineOf(t, "n").Spec()
		want = mlxbridge.LaunchOptions{SessionSeconds: 60, Wired: "off"}
		if got.Options != want || got.Adapter+got.Draft != "" || got.MaxRows != 32 || got.PrefixBytes != got.MemoryBytes/10 {
			t.Errorf("without options of its own: %+v", got)
		}
	})
}

func TestPoolSaysWhyAConfiguredModelDoesNotLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refuse := cluster.Errorf(cluster.CodeUnsupported, "this worker has no speculative decoding")
		b := newBench(t, enginetest.Script{Refuse: refuse}, mlxbridge.PoolOptions{
			BudgetBytes: 10 * gib, Models: []mlxbridge.ModelOptions{{Name: "m", Draft: "d"}},
		})
		m := model("m", 2*gib)
		mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeUnsupported)
		r := b.replica(t, "m")
		if r.State != cluster.ReplicaFailed || r.Reason != refuse.Message || r.PlannedBytes != 0 {
			t.Errorf("%+v", r)
		}
		began := time.Now()
		mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeUnsupported)
		if got := time.Since(began); got != 500*time.Millisecond {
			t.Errorf("it was tried again after %s", got)
		}
		b.fake.SetScript(enginetest.Script{})
		b.mustAsk(t, m, 1)
		mustCode(t, b.ask(t.Context(), t, model("other", 2*gib), 1).Err, "")
	})
}

func TestPoolRefusesADraftThatIsNotThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{
			Models: []mlxbridge.ModelOptions{{Name: "m", Draft: "d"}},
			Resolve: func(context.Context, string) (cluster.Model, string, error) {
				return cluster.Model{}, "", cluster.Errorf(cluster.CodeNoModel, "there is no model d")
			},
		})
		mustCode(t, b.ask(t.Context(), t, model("m", gib), 1).Err, cluster.CodeBadModel)
		if r := b.replica(t, "m"); !strings.Contains(r.Reason, "draft of model m: there is no model d") {
			t.Errorf("%+v", r)
		}
	})
}

func TestPoolModelsHaveTheirOwnTimeToLiveAndPin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{
			Options: mlxbridge.ModelOptions{IdleTTL: time.Minute},
			Models: []mlxbridge.ModelOptions{
				{Name: "short", IdleTTL: 10 * time.Second}, {Name: "ever"}, {Name: "pinned", Pinned: true, IdleTTL: time.Second},
			},
		})
		for _, name := range []string{"short", "ever", "pinned", "other"} {
			b.mustAsk(t, model(name, gib), 1)
		}
		b.mustLoad(t, model("pinned", gib), false)
		pass(15 * time.Second)
		if got := b.loaded(); got != "ever other pinned" {
			t.Errorf("loaded: %s", got)
		}
		pass(time.Hour)
		if got := b.loaded(); got != "ever pinned" || !b.replica(t, "pinned").Pinned {
			t.Errorf("loaded: %s", got)
		}
	})
}

func TestPoolRefusesWhatItsSettingsDoNotAllow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{
			BudgetBytes: 30 * gib, Models: []mlxbridge.ModelOptions{{Name: "m", MemoryBytes: gib}},
		})
		err := b.Load(t.Context(), model("m", 4*gib), "", false)
		mustCode(t, err, cluster.CodeNoFit)
		for _, want := range []string{"weights", "scratch", "keys and values", "its settings allow 1.0 GiB"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
	})
}
