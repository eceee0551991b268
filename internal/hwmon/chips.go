package hwmon

// Chip is one variant of an Apple chip: what its maker says of it, and what was measured on it.
type Chip struct {
	Name           string // as machdep.cpu.brand_string has it
	GPUCores       int
	BandwidthGBs   float64 // of its memory, 10^9 bytes a second
	MostMemoryGB   int     // that it is sold with
	TFLOPS         float64 // of its GPU, in 32 bits
	PrefillTFLOPS  float64 // that a long prompt really gets; 0 where nobody measured it
	HasAccelerator bool    // a matrix unit in every GPU core, which MLX uses from macOS 26.2 on
	// Decode8B is the tokens a second of a stream alone on a model of 8 billion parameters at 4 bits (Qwen3-8B-4bit):
	// measured where a comment says so, else estimated by others. The predictor is checked against it.
	Decode8B float64
}

// LookUp finds a chip by its name and the number of its GPU cores. Without that number, 0, it is the smallest of that
// name. What is not in the table is not known.
func LookUp(name string, gpuCores int) (Chip, bool) {
	for _, c := range chips() {
		if c.Name == name && (gpuCores == 0 || c.GPUCores == gpuCores) {
			return c, true
		}
	}
	return Chip{}, false
}

// chips lists all chips, of one name the smallest first.
//
// Bandwidth, memory and cores are those of Apple's technical specifications. The 32-bit rate is that of the table of
// hardware in huggingface.js (packages/tasks/src/hardware.ts); it is for all cores of the larger variant, and by the
// cores for the smaller one where no number of its own is given. Rates of prompts were worked out from public runs of
// mlx-lm as 2 × parameters × tokens a second:
//
//   - M4 Pro: aukejw/mlx_transformers_benchmark (Qwen3-8B-4bit, 414 tokens a second);
//   - M4 Max: BENCHMARKS.md of mlx-lm (Qwen3-4B-4bit, 1,622);
//   - M3 Ultra with 60 cores: community-benchmarks of Rapid-MLX (Qwen3-8B-4bit, 1,069);
//   - M2 Max with 38 cores: the same (Qwen3.5-9B-4bit, half of whose layers are recurrent);
//   - M5: Apple's account of it (the first token about 4 times as early as on M4), M5 Pro: insiderllm (Qwen3.5-27B,
//     478 tokens a second), M5 Max: twice that, as it has twice the cores.
func chips() []Chip {
	return []Chip{
		{"Apple M1", 7, 68, 16, 2.3, 0, false, 9},
		{"Apple M1", 8, 68, 16, 2.6, 0, false, 9},
		{"Apple M1 Pro", 14, 200, 32, 4.6, 0, false, 27},
		{"Apple M1 Pro", 16, 200, 32, 5.2, 0, false, 27},
		{"Apple M1 Max", 24, 400, 64, 7.8, 0, false, 48},
		{"Apple M1 Max", 32, 400, 64, 10.4, 0, false, 48},
		{"Apple M1 Ultra", 48, 800, 128, 15.8, 0, false, 75},
		{"Apple M1 Ultra", 64, 800, 128, 21, 0, false, 75},
		{"Apple M2", 8, 100, 24, 2.9, 0, false, 18},
		{"Apple M2", 10, 100, 24, 3.6, 0, false, 18},
		{"Apple M2 Pro", 16, 200, 32, 5.7, 0, false, 35},
		{"Apple M2 Pro", 19, 200, 32, 6.8, 0, false, 35},
		{"Apple M2 Max", 30, 400, 96, 10.7, 0, false, 62},
		{"Apple M2 Max", 38, 400, 96, 13.6, 6.8, false, 62}, // 63.5 measured, of the 9B model
		{"Apple M2 Ultra", 60, 800, 192, 21.5, 0, false, 85},
		{"Apple M2 Ultra", 76, 800, 192, 27.2, 0, false, 85},
		{"Apple M3", 8, 100, 24, 3.3, 0, false, 19},
		{"Apple M3", 10, 100, 24, 4.1, 0, false, 19},
		{"Apple M3 Pro", 14, 150, 36, 5.8, 0, false, 28},
		{"Apple M3 Pro", 18, 150, 36, 7.4, 0, false, 28},
		{"Apple M3 Max", 30, 300, 96, 10.6, 0, false, 52},
		{"Apple M3 Max", 40, 400, 128, 14.2, 0, false, 62},
		{"Apple M3 Ultra", 60, 819, 512, 21, 17.5, false, 113}, // measured
		{"Apple M3 Ultra", 80, 819, 512, 28, 0, false, 113},
		{"Apple M4", 8, 120, 32, 3.7, 0, false, 24},
		{"Apple M4", 10, 120, 32, 4.6, 0, false, 24},
		{"Apple M4 Pro", 16, 273, 64, 7.4, 0, false, 52},
		{"Apple M4 Pro", 20, 273, 64, 9.2, 6.7, false, 54.1}, // measured
		{"Apple M4 Max", 32, 410, 36, 14.7, 0, false, 69},
		{"Apple M4 Max", 40, 546, 128, 18.4, 13, false, 87},
		{"Apple M5", 8, 153, 32, 4, 0, true, 29},
		{"Apple M5", 10, 153, 32, 5, 13, true, 29},
		{"Apple M5 Pro", 16, 307, 64, 8, 0, true, 55},
		{"Apple M5 Pro", 20, 307, 64, 10, 26, true, 55},
		{"Apple M5 Max", 32, 460, 128, 16, 0, true, 72},
		{"Apple M5 Max", 40, 614, 128, 20, 50, true, 90},
	}
}
