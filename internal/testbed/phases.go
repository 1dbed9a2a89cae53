package testbed

// phase is what a recording shows by one script of the guest's.
type phase struct {
	name    string // one word
	about   string
	script  string
	unnamed []string // paths that it executes and that no package or code set names
}

// strangerPath is in a directory of the guest's that is gone with a boot.
const strangerPath = "/run/stranger"

// phases are a sound machine that goes bad twice.
func phases() []phase {
	return []phase{
		{name: "packaged", about: "packaged software only", script: `set -e
[ "$(whoami)" = root ]
id; uname -r; ls -l /usr/bin/whoami; dpkg --version; apt-get --version
modprobe wireguard; grep wireguard /proc/modules
`},
		{name: "altered", about: "one byte of coreutils' whoami changed, and whoami run", unnamed: []string{"/usr/bin/whoami"}, script: `set -e
cp -p /usr/bin/whoami /run/whoami
LC_ALL=C sed -i 's/GNU coreutils/GNU coreutilz/' /usr/bin/whoami
[ "$(sha256sum < /usr/bin/whoami)" != "$(sha256sum < /run/whoami)" ]
[ "$(stat -c %s /usr/bin/whoami)" = "$(stat -c %s /run/whoami)" ]
[ "$(whoami)" = root ]
`},
		{name: "unknown", about: "a program of no package run from tmpfs", unnamed: []string{"/dev/shm/stranger"}, script: `set -e
cp ` + strangerPath + ` /dev/shm/stranger
chmod +x /dev/shm/stranger
/dev/shm/stranger
`},
	}
}
