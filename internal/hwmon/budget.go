package hwmon

import "github.com/mlxctl/mlxctl/internal/cluster"

// smallMac is the memory up to which macOS recommends two thirds for the GPU, and three quarters above.
const smallMac = 36 << 30

// DefaultBudget is what models may use on a machine in all, in bytes; 0 where its memory is unknown.
//
// On macOS it is what Metal recommends as the largest working set (recommendedMaxWorkingSetSize): about two thirds of
// the memory up to 36 GB, three quarters above. Newer releases of macOS recommend somewhat more (measured by others: 11.84 of
// 16 GB on an M3, 107.5 of 128 GB on an M5 Max, macOS 26), so this stays on the safe side of all of them: wiring more
// than the recommendation has panicked Macs.
// Elsewhere models run on the CPU beside everything else, and get half.
func DefaultBudget(hw cluster.Hardware) int64 {
	switch {
	case hw.OS != "darwin":
		return hw.MemoryBytes / 2
	case hw.MemoryBytes <= smallMac:
		return hw.MemoryBytes / 3 * 2
	default:
		return hw.MemoryBytes / 4 * 3
	}
}
