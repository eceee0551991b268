package cmd

import (
	"cmp"
	"path/filepath"

	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// librarySettings are what the settings change about single models, for who finds them.
func librarySettings(m config.Models) []library.Setting {
	var out []library.Setting
	for _, o := range m.Options {
		out = append(out, library.Setting{
			Name: cleanName(o.Name), Adapter: o.Adapter, Draft: o.Draft, KVBits: o.KVBits, Context: o.Context,
		})
	}
	return out
}

// cleanName is how the library names a model.
func cleanName(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return name
}

// modelOptions are how models run: those without options of their own, and the others.
func modelOptions(m config.Models, home string) (mlxbridge.ModelOptions, []mlxbridge.ModelOptions) {
	defaults := mlxbridge.ModelOptions{
		MaxRows: m.MaxRows, IdleTTL: m.IdleTTL, PrefixBytes: m.PrefixBytes, PrefixShare: m.PrefixShare,
		SessionTTL: m.SessionTTL, StoredBits: m.StoredBits, SpillBytes: m.SpillBytes, Speculate: m.Speculate, Wired: m.Wired,
	}
	if m.SpillBytes > 0 {
		defaults.SpillDir = filepath.Join(home, "spill")
	}
	var each []mlxbridge.ModelOptions
	for _, o := range m.Options {
		d := defaults
		d.Name, d.Adapter, d.Draft, d.KVBits, d.Pinned = cleanName(o.Name), o.Adapter, o.Draft, o.KVBits, o.Pinned
		d.Context, d.MemoryBytes = o.Context, o.MemoryBytes
		d.MaxRows = cmp.Or(o.MaxRows, d.MaxRows)
		d.Speculate = cmp.Or(o.Speculate, d.Speculate)
		if o.PrefixBytes > 0 || o.PrefixShare > 0 {
			d.PrefixBytes, d.PrefixShare = o.PrefixBytes, o.PrefixShare
		}
		if o.IdleTTL != nil {
			d.IdleTTL = *o.IdleTTL
		}
		if o.StoredBits != nil {
			d.StoredBits = *o.StoredBits
		}
		each = append(each, d)
	}
	return defaults, each
}
