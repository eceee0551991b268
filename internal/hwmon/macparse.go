package hwmon

import (
	"regexp"
	"strconv"
	"strings"
)

// accelerator is what ioreg says of the GPU.
type accelerator struct {
	cores       int // 0 where it does not say
	busyPercent *float64
	memoryBytes *int64 // in use by everybody
}

// parseAccelerator reads `ioreg -rc AGXAccelerator -d1`: one property a line as `"key" = value`, dictionaries on one
// line as {"key"=value,…}. Keys come in no fixed order.
func parseAccelerator(b []byte) accelerator {
	var a accelerator
	for line := range lines(b) {
		if n, ok := ioregNumber(line, "gpu-core-count"); ok && n > 0 && n <= 4096 {
			a.cores = int(n)
		}
		if !strings.Contains(line, `"PerformanceStatistics"`) {
			continue
		}
		if n, ok := ioregNumber(line, "Device Utilization %"); ok && n <= 100 {
			percent := float64(n)
			a.busyPercent = &percent
		}
		if n, ok := ioregNumber(line, "In use system memory"); ok {
			a.memoryBytes = &n
		}
	}
	return a
}

// ioregNumber finds the number of a key, which must be spelled exactly: "In use system memory (driver)" is another.
func ioregNumber(line, key string) (int64, bool) {
	_, rest, ok := strings.Cut(line, `"`+key+`"`)
	if !ok {
		return 0, false
	}
	rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " "), "=")
	if !ok {
		return 0, false
	}
	rest = strings.TrimLeft(rest, " ")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	return n, err == nil
}

var platformUUID = regexp.MustCompile(`"IOPlatformUUID"\s*=\s*"([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})"`)

// parsePlatformUUID finds the machine's own id in `ioreg -rd1 -c IOPlatformExpertDevice`; "" where there is none.
func parsePlatformUUID(b []byte) string {
	if m := platformUUID.FindSubmatch(b); m != nil {
		return string(m[1])
	}
	return ""
}

var vmPageSize = regexp.MustCompile(`page size of (\d{1,9}) bytes`)

// parseVMStat reads vm_stat: what can be had without paging anything out, that is free, speculative and inactive
// pages. It is nil unless all three are there.
func parseVMStat(b []byte) *int64 {
	size := vmPageSize.FindSubmatch(b)
	if size == nil {
		return nil
	}
	page, err := strconv.ParseInt(string(size[1]), 10, 64)
	if err != nil || page < 1 || page > 1<<20 {
		return nil
	}
	var sum int64
	for _, key := range []string{"Pages free:", "Pages speculative:", "Pages inactive:"} {
		_, rest, ok := strings.Cut(string(b), key)
		if !ok {
			return nil
		}
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), "."), 10, 64)
		if err != nil || n < 0 || n > 1<<32 {
			return nil
		}
		sum += n
	}
	sum *= page
	return &sum
}

// parseIOStat reads the idle column of the last line of iostat, in whole percent.
func parseIOStat(b []byte) *float64 {
	idle, last := -1, []string(nil)
	for line := range lines(b) {
		fields := strings.Fields(line)
		for i, f := range fields {
			if f == "id" && i >= 2 && fields[i-1] == "sy" && fields[i-2] == "us" {
				idle, fields = i, nil
				break
			}
		}
		if len(fields) > 0 {
			last = fields
		}
	}
	if idle < 0 || idle >= len(last) {
		return nil
	}
	n, err := strconv.ParseUint(last[idle], 10, 64)
	if err != nil || n > 100 {
		return nil
	}
	busy := float64(100 - n)
	return &busy
}

// thermalKey is the notification that carries the thermal pressure (kOSThermalNotificationPressureLevelName); thermald
// sets it, and anybody may read it.
const thermalKey = "com.apple.system.thermalpressurelevel"

// parseThermal reads `notifyutil -g`: the key and its number. The numbers are those of OSThermalNotification.h on macOS:
// nominal, moderate, heavy, trapping, sleeping. They are told in the four words of NSProcessInfo.thermalState.
func parseThermal(b []byte) *string {
	fields := strings.Fields(string(b))
	if len(fields) != 2 || fields[0] != thermalKey {
		return nil
	}
	var word string
	switch fields[1] {
	case "0":
		word = "nominal"
	case "1":
		word = "fair"
	case "2":
		word = "serious"
	case "3", "4":
		word = "critical"
	default:
		return nil
	}
	return &word
}
