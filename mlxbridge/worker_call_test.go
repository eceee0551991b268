package mlxbridge_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// longInputs take a worker some time, on a fast machine as well.
func longInputs() *cluster.EmbedRequest {
	req := &cluster.EmbedRequest{Model: "tiny"}
	for range 128 {
		req.Inputs = append(req.Inputs, cluster.EmbedInput{Prompt: strings.Repeat("fox ", 4000)})
	}
	return req
}

func TestWorkerSaysWhatItsModelCanDo(t *testing.T) {
	t.Parallel()
	launcher := mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
		Environment: enginetest.Environment(t), CacheDir: enginetest.CacheDir(t), LogDir: t.TempDir(),
	})
	got := launch(t, launcher, enginetest.Tiny(t)).Info().Features
	if want := (mlxbridge.Features{Tools: got.Tools, Grammar: true, Embeddings: true}); got != want {
		t.Errorf("got %+v", got)
	}
}

func TestWorkerStopsEmbeddingWhenNobodyWaits(t *testing.T) {
	t.Parallel()
	engine := launch(t, enginetest.RealLauncher(t), enginetest.Tiny(t))
	// On a slow machine the time may be over before the worker has heard of the request: then more of it is given.
	for wait := 100 * time.Millisecond; engine.Stats().Counters.Cancelled == 0; wait *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		_, err := engine.Embed(ctx, longInputs())
		cancel()
		mustCode(t, err, cluster.CodeTimeout)
		mustCount(t, engine, 20)
		for range 2 { // the first account may be of a moment before
			before := engine.Stats().At
			waitFor(t, "a newer account", func() bool { return engine.Stats().At.After(before) })
		}
	}
}

func TestWorkerDiesWhileItEmbeds(t *testing.T) {
	t.Parallel()
	engine := launch(t, enginetest.RealLauncher(t), enginetest.Tiny(t))
	var asking sync.WaitGroup
	asking.Go(func() {
		_, err := engine.Embed(t.Context(), longInputs())
		mustCode(t, err, cluster.CodeWorkerCrashed)
	})
	mustCount(t, engine, 20) // by then the other request is there, too
	if err := syscall.Kill(engine.Info().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	asking.Wait()
	_, err := engine.Tokenize(t.Context(), enginetest.Count("tiny", 3))
	mustCode(t, err, cluster.CodeWorkerCrashed)
}

func TestWorkerHoldsAnswersToTheirGrammar(t *testing.T) {
	t.Parallel()
	engine := launch(t, enginetest.RealLauncher(t), enginetest.Tiny(t))
	ask := func(g cluster.Grammar) enginetest.Answer {
		req := enginetest.Count("tiny", 12)
		req.Grammar = &g
		return enginetest.Collect(t, func(emit func(cluster.Chunk)) error { return engine.Generate(t.Context(), req, emit) })
	}
	if a := ask(cluster.Grammar{Kind: cluster.GrammarRegex, Value: json.RawMessage(`"1, 2, 4"`)}); a.Err != nil || a.Text != "1, 2, 4" {
		t.Errorf("%q, %v", a.Text, a.Err)
	}
	a := ask(cluster.Grammar{Kind: cluster.GrammarJSONSchema, Value: json.RawMessage(`{"type":"objekt"}`)})
	mustCode(t, a.Err, cluster.CodeInvalid)
	if e := cluster.AsError(a.Err); e.Field != "grammar" || !strings.Contains(e.Message, "objekt") {
		t.Errorf("%+v", e)
	}
}

func TestPoolEmbedsAsItGenerates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{LoadFor: time.Second}, mlxbridge.PoolOptions{Options: mlxbridge.ModelOptions{MaxRows: 1, IdleTTL: time.Minute}})
		m := model("m", gib)
		req := &cluster.EmbedRequest{Model: "m", Inputs: []cluster.EmbedInput{{Prompt: "a"}, {Prompt: "b"}}}
		var asking sync.WaitGroup
		for range 6 { // one that runs and four that wait are all it takes
			asking.Go(func() {
				if out, err := b.Embed(t.Context(), m, "", req); err == nil && len(out.Vectors) != 2 {
					t.Errorf("got %+v", out)
				} else if err != nil {
					mustCode(t, err, cluster.CodeBusy)
				}
			})
		}
		synctest.Wait()
		_, err := b.Tokenize(t.Context(), m, "", enginetest.Count("m", 3))
		mustCode(t, err, cluster.CodeBusy)
		asking.Wait()
		tokens, err := b.Tokenize(t.Context(), m, "", enginetest.Count("m", 3))
		mustCode(t, err, "")
		text, err := b.Detokenize(t.Context(), m, "", tokens)
		if err != nil || text != "Count from 1 to 3." {
			t.Errorf("%q, %v", text, err)
		}
		if b.fake.Launches() != 1 {
			t.Errorf("%d launches", b.fake.Launches())
		}
		pass(2 * time.Minute) // of the bubble: who asked for vectors uses a model no longer than that
		if left := b.fake.Engines(); len(left) > 0 {
			t.Error("an idle model is still there")
		}
	})
}
