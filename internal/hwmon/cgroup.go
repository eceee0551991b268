package hwmon

import (
	"path"
	"strconv"
	"strings"
)

// cgroupLimit is what the control groups that this process is in leave to it, in bytes.
type cgroupLimit struct {
	most int64 // the tightest limit
	free int64 // of the group that has least left, where what the kernel can drop counts as free; -1 where none says
}

// unlimited is what version 1 says where there is no limit: the largest number of whole pages.
const unlimited = 1 << 60

// cgroupFiles names the files of one version of control groups.
type cgroupFiles struct{ base, limit, used, reclaimable string }

// cgroupMemory looks at all groups from this process's own up to the root: every one of them limits it.
func (p *procfs) cgroupMemory() (cgroupLimit, bool) {
	best, found := cgroupLimit{most: unlimited, free: -1}, false
	group, files := parseCgroup(p.file("proc/self/cgroup"))
	for _, f := range files {
		// The group is named from the host's root, which a container may not see; the walk then ends at its own root.
		for dir := path.Clean("/" + group[f.base]); ; dir = path.Dir(dir) {
			if l, ok := p.cgroupAt(path.Join(f.base, dir), f); ok {
				found = true
				best.most = min(best.most, l.most)
				if l.free >= 0 && (best.free < 0 || l.free < best.free) {
					best.free = l.free
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return best, found
}

func (p *procfs) cgroupAt(dir string, f cgroupFiles) (cgroupLimit, bool) {
	most, err := parseBytes(p.file(path.Join(dir, f.limit)))
	if err != nil || most <= 0 || most >= unlimited {
		return cgroupLimit{}, false // "max" is no number
	}
	l := cgroupLimit{most: most, free: -1}
	if used, err := parseBytes(p.file(path.Join(dir, f.used))); err == nil {
		used = max(0, used-statValue(p.file(path.Join(dir, "memory.stat")), f.reclaimable))
		l.free = max(0, most-used)
	}
	return l, true
}

// parseCgroup reads /proc/self/cgroup: the groups by the folder of their hierarchy, and the hierarchies that can limit
// memory.
func parseCgroup(b []byte) (map[string]string, []cgroupFiles) {
	const v1, v2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
	groups := map[string]string{}
	var files []cgroupFiles
	for line := range lines(b) {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[0] == "0" && parts[1] == "":
			groups[v2] = parts[2]
			files = append(files, cgroupFiles{v2, "memory.max", "memory.current", "inactive_file"})
		case hasWord(parts[1], "memory"):
			groups[v1] = parts[2]
			files = append(files, cgroupFiles{v1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"})
		}
	}
	return groups, files
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// statValue finds one line of memory.stat; 0 where it is not there.
func statValue(b []byte, key string) int64 {
	for line := range lines(b) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			n, err := strconv.ParseInt(value, 10, 64)
			if err == nil && n > 0 {
				return n
			}
		}
	}
	return 0
}
