//go:build testbed

package testbed

import (
	"os"
	"path/filepath"
	"strings"
)

// services: the units of dist/ run nodes under the guest's systemd, one without a TPM and
// one with the guest's. Each answers, comes back after SIGKILL, and stops in order; the
// second makes evidence of the machine inside its unit's confinement.
func (s *stage) services() {
	for to, from := range map[string]string{
		"/etc/systemd/system/keystead-node.service":       "keystead-node.service",
		"/etc/systemd/system/keystead-node-notpm.service": "keystead-node-notpm.service",
		"/usr/lib/sysusers.d/keystead.conf":               "keystead.sysusers",
	} {
		content, err := os.ReadFile(filepath.Join(repositoryRoot, "dist", from))
		s.check(err)
		s.check(s.guest.Write(s.ctx, to, "644", content))
	}
	root, err := os.ReadFile(s.domain.at(EKRoot))
	s.check(err)
	s.check(s.guest.Write(s.ctx, "/run/ek-root.pem", "644", root))
	s.run(`set -e
systemctl stop keystead-agent
systemctl daemon-reload
cd /run
keystead member create ops --out ops.key
`)
	s.run(founded("runuser -u keystead -- ", "", "--evidence none",
		"systemd-sysusers\ninstall -d -m 700 -o keystead -g keystead /var/lib/keystead") + served("keystead-node-notpm"))
	out := s.run("rm -r /var/lib/keystead /run/solo.json\n" + founded("", "--tpm /dev/tpmrm0", "--policy demo --test-roots ek-root.pem", `mkdir -p /run/systemd/system/keystead-node.service.d
cat >/run/systemd/system/keystead-node.service.d/evidence.conf <<'END'
[Service]
ExecStartPre=/usr/bin/keystead evidence collect --tpm /dev/tpmrm0 --nonce 00112233445566778899aabbccddeeff --out /var/lib/keystead/made.bundle
END
systemctl daemon-reload`) + served("keystead-node") + "keystead evidence show /var/lib/keystead/made.bundle\n")
	for _, want := range []string{"quote:     signature fits", "event log: ", " events in registers of the quote", " entries that lead to the quote"} {
		if !strings.Contains(out, want) {
			s.Errorf("evidence from inside the unit lacks %q:\n%s", want, out)
		}
	}
	s.run("rm -r /run/systemd/system/keystead-node.service.d /var/lib/keystead\nsystemctl daemon-reload\nsystemctl start keystead-agent")
	s.admitted(0)
}

// founded makes the domain of one node as the unit's first lines have it.
func founded(as, with, how, before string) string {
	return `set -e
cd /run
` + before + `
` + as + `keystead node init /var/lib/keystead --open-writes --name solo --peer 127.0.0.1:7100 --api 127.0.0.1:7200 ` + with + `
keystead domain init solo --trust-disks ` + how + ` --member ops.key.pub --node /var/lib/keystead/contact --out solo.json
keystead member sign --key ops.key solo.json
` + as + `keystead domain join /var/lib/keystead --domain solo.json --timeout 1s
`
}

// served has a unit start a node, kills it, and stops it.
func served(unit string) string {
	return `systemctl start ` + unit + `
keystead ledger put kv/unit one --domain solo.json --timeout 60s
systemctl kill -s KILL ` + unit + `
keystead ledger put kv/unit two --domain solo.json --timeout 60s
test "$(systemctl show -p NRestarts --value ` + unit + `)" = 1
systemctl stop ` + unit + `
test "$(systemctl show -p Result --value ` + unit + `)" = success
test -e /var/lib/keystead/shutdown
`
}
