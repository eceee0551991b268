package mlxbridge_test

import (
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// A worker that nobody asks anything measures itself, and is idle all the while.
func TestWorkerMeasuresItself(t *testing.T) {
	t.Parallel()
	engine := launch(t, enginetest.RealLauncher(t), enginetest.Tiny(t))
	waitFor(t, "its curve", func() bool {
		s := engine.Stats()
		if s.Running != 0 || s.Waiting != 0 || s.Counters != (cluster.Counters{}) {
			t.Fatalf("the idle worker says %+v", s)
		}
		return s.Curve != nil && s.Curve.Measured
	})
	curve := engine.Stats().Curve
	if !curve.Valid() || curve.StepMS(1) <= 0 || curve.PrefillRate(64) <= 0 {
		t.Errorf("the curve is %+v", curve)
	}
	mustCount(t, engine, 20)
}
