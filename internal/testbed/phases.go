package testbed

// phase is what a recording shows by one step of the guest.
type phase struct {
	about   string
	step    Step
	unnamed []string // paths that it executes and that no package or code set names
}

// phases are a sound machine that goes bad twice.
func phases() []phase {
	return []phase{
		{about: "packaged software only", step: Step{Name: "packaged", Script: `set -e
[ "$(whoami)" = root ]
id; uname -r; ls -l /usr/bin/whoami; dpkg --version; apt-get --version
modprobe wireguard; grep wireguard /proc/modules
`}},
		{about: "one byte of coreutils' whoami changed, and whoami run", unnamed: []string{"/usr/bin/whoami"}, step: Step{Name: "altered", Script: `set -e
cp -p /usr/bin/whoami /run/whoami
LC_ALL=C sed -i 's/GNU coreutils/GNU coreutilz/' /usr/bin/whoami
[ "$(sha256sum < /usr/bin/whoami)" != "$(sha256sum < /run/whoami)" ]
[ "$(stat -c %s /usr/bin/whoami)" = "$(stat -c %s /run/whoami)" ]
[ "$(whoami)" = root ]
`}},
		{about: "a program of no package run from tmpfs", unnamed: []string{"/dev/shm/stranger"}, step: Step{Name: "unknown", Files: map[string][]byte{"stranger": stranger()}, Script: `set -e
cp stranger /dev/shm/stranger
chmod +x /dev/shm/stranger
/dev/shm/stranger
`}},
	}
}
