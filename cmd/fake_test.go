package cmd

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
)

// fakeCluster is a cluster without processes: it has one state and gives one answer.
type fakeCluster struct {
	state    *cluster.Snapshot
	stateErr error // instead
	chunks   []cluster.Chunk
	err      error // after the chunks

	asked  *cluster.Request
	loaded []string
	logged logQuery
	// drained lists what Drain and Forget were asked; refuses are the nodes that cannot be asked.
	drained []string
	refuses map[cluster.NodeID]error
}

func (f *fakeCluster) Generate(_ context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error {
	f.asked = req
	for _, c := range f.chunks {
		if err := emit(c); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fakeCluster) Snapshot(context.Context) (*cluster.Snapshot, error) {
	return f.state, f.stateErr
}

func (f *fakeCluster) Watch(context.Context) (feed, error) { return f, nil }

func (f *fakeCluster) Next(context.Context) (*cluster.Snapshot, []cluster.Event, error) {
	return f.state, nil, nil
}

func (f *fakeCluster) Load(_ context.Context, model string, node cluster.NodeID, pin bool) error {
	f.loaded = append(f.loaded, model+"@"+string(node)+map[bool]string{true: " pinned"}[pin])
	return f.err
}

func (f *fakeCluster) Unload(_ context.Context, model string, node cluster.NodeID, force bool) error {
	f.loaded = append(f.loaded, "-"+model+"@"+string(node)+map[bool]string{true: " forced"}[force])
	return f.err
}

func (f *fakeCluster) Drain(_ context.Context, node cluster.NodeID, on bool) error {
	f.drained = append(f.drained, map[bool]string{false: "-"}[on]+string(node))
	return f.refuses[node]
}

func (f *fakeCluster) Forget(_ context.Context, node cluster.NodeID) error {
	f.drained = append(f.drained, "!"+string(node))
	return f.refuses[node]
}

func (f *fakeCluster) Logs(_ context.Context, q logQuery, line func(string) error) error {
	if q.Request != "" {
		if q.Request != "r-known" {
			return nil
		}
		return line("time=2026-11-24T09:00:01Z msg=\"request answered\" req=r-known")
	}
	f.logged = q
	return line("time=2026-11-24T09:00:00Z msg=hello")
}

func (f *fakeCluster) Close() {}

// result is what one command line did.
type result struct {
	code     int
	out, err string
}

// invocation is one command line in a home of its own.
type invocation struct {
	cluster *fakeCluster
	stdin   string
	tty     bool // stdin and stdout and stderr
	env     map[string]string
}

func (i invocation) run(t *testing.T, args ...string) result {
	t.Helper()
	s, in, out, errOut := iostreams.Test()
	in.WriteString(i.stdin)
	if i.tty {
		s.SetTTY(true, true, true)
		s.In = endless{}
	}
	env := map[string]string{"HOME": t.TempDir(), "MLXCTL_HOME": t.TempDir(), "MLXCTL_CACHE": t.TempDir()}
	maps.Copy(env, i.env)
	d := &deps{
		streams: s, build: Build{"v1.2.3", "0123456789abcdef"}, exe: "/nonexistent/mlxctl",
		env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	}
	if i.cluster != nil {
		d.dial = func(context.Context, *config.Config) (clusterClient, error) { return i.cluster, nil }
	}
	code := run(d, args)
	return result{code, out.String(), errOut.String()}
}

// endless is a terminal at which nobody types.
type endless struct{}

func (endless) Read([]byte) (int, error) { select {} }

// twoMacs is a state with something of everything.
//
//go:fix inline
func twoMacs() *cluster.Snapshot {
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	tiny := cluster.Model{Name: "tiny", Digest: "sha256:0123456789abcdef", Architecture: "llama", Quantization: "bf16", WeightBytes: 1613496, KVBytesPerToken: 512, Context: 2048}
	big := cluster.Model{Name: "mlx-community/Qwen3-32B-4bit", Revision: "abcdef0123456789", Digest: "sha256:fedcba9876543210", Architecture: "qwen3", Quantization: "4-bit", WeightBytes: 18 << 30, KVBytesPerToken: 262144, Context: 40960}
	return &cluster.Snapshot{
		At: at, Cluster: "lab",
		Controller: cluster.Controller{Version: "v1.2.3", StartedAt: at.Add(-time.Hour), HTTP: "http://127.0.0.1:8640"},
		Nodes: []cluster.Node{
			{
				ID: "n-mini", Name: "mini", State: cluster.NodeDown, Reason: "no heartbeat for 7 s", Version: "v1.2.3",
				Hardware: cluster.Hardware{OS: "darwin", Arch: "arm64"}, Models: []cluster.Model{tiny}, LastSeen: at.Add(-7 * time.Second),
			},
			{
				ID: "n-studio", Name: "studio", State: cluster.NodeReady, Version: "v1.2.3",
				Hardware:    cluster.Hardware{Chip: "Apple M2 Ultra", Model: "Mac14,14", OS: "darwin", OSVersion: "15.1", Arch: "arm64", CPUs: 24, GPUCores: 76, MemoryBytes: 192 << 30},
				Load:        cluster.Load{MemoryFreeBytes: new(int64(100 << 30)), CPUPercent: new(3.4), GPUPercent: new(88.0), PowerWatts: new(120.25), Thermal: new("nominal")},
				BudgetBytes: 140 << 30, PlannedBytes: 20 << 30,
				Models: []cluster.Model{big, tiny},
				Replicas: []cluster.Replica{
					{
						Model: big.Name, Digest: big.Digest, State: cluster.ReplicaReady, PlannedBytes: 20 << 30, ResidentBytes: 19 << 30, Context: 40960, Slots: 8, Running: 2, Waiting: 1, TokensPerSecond: 61.25, WorkerPID: 4711, Restarts: 1,
						Adapter: "/srv/adapters/legal", Draft: "org/draft", KVBits: 8,
						Curve: &cluster.Curve{Decode: [][2]float64{{1, 25}, {8, 40}}, Prefill: [][2]float64{{256, 120}}, Measured: true},
					},
					{
						Model: "tiny", Digest: tiny.Digest, State: cluster.ReplicaReady, PlannedBytes: 64 << 20, Context: 2048, Slots: 32, IdleSince: new(at.Add(-4 * time.Minute)),
						Curve: &cluster.Curve{Decode: [][2]float64{{1, 2}}, Prefill: [][2]float64{}},
					},
				},
				LastSeen: at, StartedAt: new(at.Add(-50 * time.Hour)),
			},
		},
		Requests: []cluster.RequestStatus{
			{ID: "01R1", Model: big.Name, Node: "n-studio", State: cluster.RequestStreaming, Attempt: 1, Tokens: 42, Since: at.Add(-9 * time.Second), FirstToken: new(at.Add(-8 * time.Second))},
		},
		Totals: cluster.Totals{Requests: 12, Finished: 10, Failed: 1, Tokens: 5000, TokensPerSecond: 61.25},
	}
}
