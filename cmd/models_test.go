package cmd

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

func TestOptionsOfModels(t *testing.T) {
	t.Parallel()
	never, none := time.Duration(0), 0
	models := config.Models{
		MaxRows: 8, IdleTTL: time.Hour, PrefixBytes: 5, SessionTTL: time.Minute, StoredBits: 8, SpillBytes: 9,
		Speculate: "auto", Wired: "weights",
		Options: []config.ModelOptions{
			{Name: "plain"},
			{
				Name: "/models/m/", Adapter: "/a", Draft: "d", KVBits: 4, Pinned: true, IdleTTL: &never, Context: 7, MaxRows: 2,
				MemoryBytes: 3, PrefixShare: 20, StoredBits: &none, Speculate: "off",
			},
		},
	}
	base := mlxbridge.ModelOptions{
		MaxRows: 8, IdleTTL: time.Hour, PrefixBytes: 5, SessionTTL: time.Minute, StoredBits: 8, SpillBytes: 9,
		SpillDir: "/home/spill", Speculate: "auto", Wired: "weights",
	}
	plain := base
	plain.Name = "plain"
	defaults, each := modelOptions(models, "/home")
	if diff := cmp.Diff(base, defaults); diff != "" {
		t.Error(diff)
	}
	want := []mlxbridge.ModelOptions{plain, {
		Name: "/models/m", Adapter: "/a", Draft: "d", KVBits: 4, Pinned: true, Context: 7, MaxRows: 2, MemoryBytes: 3,
		PrefixShare: 20, Speculate: "off", SessionTTL: time.Minute, SpillBytes: 9, SpillDir: "/home/spill", Wired: "weights",
	}}
	if diff := cmp.Diff(want, each); diff != "" {
		t.Error(diff)
	}
	settings := []library.Setting{{Name: "plain"}, {Name: "/models/m", Adapter: "/a", Draft: "d", KVBits: 4, Context: 7}}
	if diff := cmp.Diff(settings, librarySettings(models)); diff != "" {
		t.Error(diff)
	}
}
