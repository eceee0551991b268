package mlxbridge_test

import (
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestWorkerGuessesAheadForARequestThatIsAlone(t *testing.T) {
	t.Parallel()
	spec := enginetest.Small(t)
	spec.Draft = enginetest.Tiny(t).Dir
	engine := launch(t, enginetest.RealLauncher(t), spec)
	mustCount(t, engine, 40)
	waitFor(t, "guesses in the stats", func() bool { return engine.Stats().Speculation.Proposed > 0 })
	if s := engine.Stats().Speculation; s.Accepted > s.Proposed {
		t.Errorf("%+v", s)
	}
	plain := launch(t, enginetest.RealLauncher(t), enginetest.Small(t)).Info()
	if draft := engine.Info().WeightBytes - plain.WeightBytes; draft < 1e6 {
		t.Errorf("the draft's weights are not counted: %d bytes more", draft)
	}
}

func TestWorkerWithQuantizedKeysAndValues(t *testing.T) {
	t.Parallel()
	spec := enginetest.Tiny(t)
	spec.KVBits, spec.Options.Speculate = 8, "off"
	engine := launch(t, enginetest.RealLauncher(t), spec)
	if per := engine.Info().KVBytesPerToken; per <= 0 || per > spec.Model.KVBytesPerToken*2/3 {
		t.Errorf("%d bytes for a token, %d without", per, spec.Model.KVBytesPerToken)
	}
	mustCount(t, engine, 60)
	waitFor(t, "the answer in the stats", func() bool { return engine.Stats().Counters.Finished > 0 })
	if s := engine.Stats().Speculation; s != (mlxbridge.Speculation{}) {
		t.Errorf("it guessed although it was told not to: %+v", s)
	}
}

func TestWorkerRefusesWhatItCannotLoad(t *testing.T) {
	t.Parallel()
	spec := enginetest.Tiny(t)
	spec.KVBits = 3
	_, err := enginetest.RealLauncher(t).Launch(t.Context(), spec)
	mustCode(t, err, cluster.CodeBadModel)
}
