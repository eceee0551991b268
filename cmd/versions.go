package cmd

import (
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"
)

// versionOf is the version in a version id, which ends with a part of a hash.
func versionOf(versionID string) string {
	if i := strings.LastIndexByte(versionID, '-'); i > 0 {
		return versionID[:i]
	}
	return versionID
}

// afterTag is a version of a commit after that of a tag, as git describes it.
var afterTag = regexp.MustCompile(`^(.+)-([0-9]+)-g[0-9a-f]+$`)

// isOlder says whether a version is known to be before another one. Versions that are no numbers are in no order.
func isOlder(version, other string) bool {
	tag, commits := tagOf(version)
	otherTag, otherCommits := tagOf(other)
	if !semver.IsValid(tag) || !semver.IsValid(otherTag) {
		return false
	}
	c := semver.Compare(tag, otherTag)
	return c < 0 || (c == 0 && commits < otherCommits)
}

// tagOf is the tag of a version, and how many commits came after it.
func tagOf(version string) (tag string, commits int) {
	version = strings.TrimSuffix(version, "-dirty")
	m := afterTag.FindStringSubmatch(version)
	if m == nil {
		return version, 0
	}
	commits, err := strconv.Atoi(m[2])
	if err != nil {
		return version, 0 // more than anybody makes
	}
	return m[1], commits
}

// versionChange is what another version is for who runs one, and why it is so.
func versionChange(from, to, fromVersion, toVersion string) (what, reason string) {
	what = whatUpgrade
	if isOlder(toVersion, fromVersion) {
		what = whatDowngrade
	}
	return what, "from " + first(from, "nothing") + " to " + to
}
