package agent

import (
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/hwmon"
)

// replicas is what is in memory. One whose speed is not measured yet has the one that this machine makes one expect.
func (a *Agent) replicas() []cluster.Replica {
	replicas := a.pool.Replicas()
	for i := range replicas {
		r := &replicas[i]
		if r.Curve != nil && r.Curve.Measured {
			continue
		}
		if expected := hwmon.Expect(a.hardware, a.modelOnDisk(r.Digest)); expected != nil {
			r.Curve = expected
		}
	}
	return replicas
}

// modelOnDisk is the model of a digest; one without anything where it is gone.
func (a *Agent) modelOnDisk(digest string) cluster.Model {
	for _, m := range a.modelsOnDisk() {
		if m.Digest == digest {
			return m
		}
	}
	return cluster.Model{}
}
