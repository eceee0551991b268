package unit

// OnMacOS returns s as if this were a Mac, with its folder of daemons at dir, and a user who is not root.
func (s Spec) OnMacOS(dir string) Spec {
	s.goos, s.daemonDir, s.euid = "darwin", dir, 501
	return s
}

// AsUser returns s as if the user of this process were not root.
func (s Spec) AsUser() Spec {
	s.goos, s.euid = "linux", 501
	return s
}
