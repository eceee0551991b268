package mlxbridge_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// adapterFor writes a LoRA adapter of rank 4 for the queries of the embedded model's two layers: a random A, and a B that
// is random up to size, or zero.
func adapterFor(t *testing.T, size float64) string {
	t.Helper()
	const in, out, rank = 128, 256, 4
	r := rand.New(rand.NewPCG(1, 2))
	header := map[string]any{}
	var data []byte
	add := func(name string, rows, columns int, size float64) {
		begin := len(data)
		for range rows * columns {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(size*(2*r.Float64()-1))))
		}
		header[name] = map[string]any{"dtype": "F32", "shape": []int{rows, columns}, "data_offsets": []int{begin, len(data)}}
	}
	for _, layer := range []string{"0", "1"} {
		add("model.layers."+layer+".self_attn.q_proj.lora_a", in, rank, 1)
		add("model.layers."+layer+".self_attn.q_proj.lora_b", rank, out, size)
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"adapter_config.json": []byte(`{"fine_tune_type": "lora", "num_layers": 2,
			"lora_parameters": {"rank": 4, "scale": 10.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}}`),
		"adapters.safetensors": append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), data...),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWorkerRunsWithAnAdapter(t *testing.T) {
	t.Parallel()
	launcher := enginetest.RealLauncher(t)
	spec := enginetest.Tiny(t)
	spec.Options.Wired, spec.Adapter = "off", adapterFor(t, 0)
	mustCount(t, launch(t, launcher, spec), 20) // a B of zeros changes nothing
	spec.Adapter = adapterFor(t, 5)
	engine := launch(t, launcher, spec)
	most := 40
	ask := func() string {
		a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
			req := enginetest.Count("model", 20)
			req.MaxTokens = &most
			return engine.Generate(t.Context(), req, emit)
		})
		if a.Err != nil {
			t.Error(a.Err)
		}
		return a.Text
	}
	if first := ask(); first == enginetest.Counted(1, 20) || first != ask() {
		t.Errorf("the adapter changes nothing, or something else each time: %q", first)
	}
}

func TestWorkerRefusesAnAdapterThatDoesNotFit(t *testing.T) {
	t.Parallel()
	dir := adapterFor(t, 1)
	err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(`{"num_layers": 2,
		"lora_parameters": {"rank": 8, "scale": 10.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}}`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	spec := enginetest.Tiny(t)
	spec.Adapter = dir
	engine, err := enginetest.RealLauncher(t).Launch(t.Context(), spec)
	if engine != nil || cluster.CodeOf(err) != cluster.CodeBadModel || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v, %q: %v", engine, cluster.CodeOf(err), err)
	}
}

// obeyed waits until a worker says that it has done what it was told.
func obeyed(t *testing.T, engine mlxbridge.Engine, s mlxbridge.Settings) {
	t.Helper()
	select {
	case <-engine.Set(s):
	case <-engine.Done():
		t.Fatalf("it ended: %v", engine.Err())
	case <-time.After(time.Minute):
		t.Fatalf("it does not obey %+v", s)
	}
}

func TestWorkerObeys(t *testing.T) {
	t.Parallel()
	spec := enginetest.Tiny(t)
	spec.MemoryBytes = gib
	engine := launch(t, enginetest.RealLauncher(t), spec)
	mustCount(t, engine, 60)
	obeyed(t, engine, mlxbridge.Settings{MemoryBytes: gib / 2, PrefixBytes: 1 << 20, MaxRows: 2})
	mustCount(t, engine, 61)
	obeyed(t, engine, mlxbridge.Settings{Pressure: 4})
	var asking sync.WaitGroup
	answered := make(chan struct{})
	asking.Go(func() { mustCount(t, engine, 62); close(answered) })
	end := time.NewTimer(time.Minute)
	defer end.Stop()
	for waits := false; !waits; {
		select {
		case <-answered:
			t.Fatal("a row started under critical pressure")
		case <-end.C:
			t.Fatalf("nobody waits: %+v", engine.Stats())
		case <-time.After(5 * time.Millisecond):
			s := engine.Stats()
			waits = s.Waiting == 1 && s.PrefixEntries == 0
		}
	}
	obeyed(t, engine, mlxbridge.Settings{Pressure: 1, MemoryBytes: gib})
	asking.Wait()
	mustCount(t, engine, 63)
}
