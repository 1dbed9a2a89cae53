package appraise

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/policy"
)

// surveyPolicy finds out everything and demands nothing.
const surveyPolicy = "keystead-policy/1\nname survey\nminimum-assurance none\nsoftware report\nboot report\nrules none\n"

// Draft writes a policy that the golden machine of the evidence passes: the strictest
// directives and rules that it meets, each with its reason, as a text for its signer
// to read and edit. The input's own policy is disregarded. What would break with the
// next update is left out and said in comments. It refuses evidence whose root of
// trust or logs fail, as Appraise would.
func Draft(name string, in Input) (*policy.Policy, error) {
	survey, err := policy.Compile([]byte(surveyPolicy), Vocabulary())
	if err != nil {
		return nil, err
	}
	in.Policy = survey
	v := Appraise(in)
	if !v.Established() {
		return nil, v.Err()
	}
	d := draft{claims: v.Claims(), level: v.Assurance()}
	if in.Policy, err = policy.Compile(d.write(name), Vocabulary()); err != nil {
		return nil, err
	}
	if v := Appraise(in); !v.Allowed() {
		return nil, fmt.Errorf("the draft denies the machine that it was made of: %w", v.Err())
	}
	return in.Policy, nil
}

type draft struct {
	claims evidence.Claims
	level  evidence.Assurance
	text   strings.Builder
}

func (d *draft) write(name string) []byte {
	fmt.Fprintf(&d.text, "keystead-policy/1\nname %s\n\n# Drafted from one machine's evidence: read each line before you sign it.\n", name)
	d.directives()
	d.root()
	d.boot()
	d.software()
	return []byte(d.text.String())
}

func (d *draft) directive(reason, line string) { fmt.Fprintf(&d.text, "\n# %s\n%s\n", reason, line) }

// comment says what no rule was made of.
func (d *draft) comment(format string, args ...any) {
	fmt.Fprintf(&d.text, "\n# %s\n", plain(fmt.Sprintf(format, args...)))
}

// rule writes one if the machine meets it, else why there is none.
func (d *draft) rule(met bool, name, expr, otherwise string) {
	if !met {
		d.comment("No rule %s: this machine does not meet it. It would be: require %s", name, expr)
		return
	}
	fmt.Fprintf(&d.text, "\nrule %s\n  require %s\n  otherwise %s\n", name, expr, otherwise)
}

func (d *draft) directives() {
	c := d.claims
	d.directive("The level that this machine reaches.", "minimum-assurance "+d.level.String())
	switch {
	case d.namesEverything():
		d.directive("Everything that ran is named by a package or code set.", "software every-entry")
	default:
		d.directive(fmt.Sprintf("Of %d files that ran, %d are named, %d unknown, %d altered, %d weak: with every-entry this machine would be denied.",
			c.Software.Entries, c.Software.Named, c.Software.Unknown, c.Software.Altered, c.Software.Weak), "software report")
	}
	if c.Kernel.Accepted {
		d.directive("Kernel, initrd and command line are those of a code set.", "boot accepted")
	} else {
		d.directive("No code set accepts this kernel, initrd and command line: keystead codeset build makes one.", "boot report")
	}
}

// namesEverything reports whether software every-entry lets the machine pass.
func (d *draft) namesEverything() bool {
	s, p := d.claims.Software, d.claims.Packages
	return s.Entries > 1 && s.Named+1 == s.Entries && len(p.Unlisted) == 0 && p.Listed > 0 && slices.Contains(d.claims.Kernel.Guarantees, "ima-policy")
}

func (d *draft) root() {
	c := d.claims
	d.rule(c.Key.Binding == BindingActivated, "key-activated", `key.binding == "activated"`, "verify with the host online, so that its TPM can activate a credential")
	var quoted []string
	for _, pcr := range []int64{0, 1, 2, 3, 4, 5, 6, 7, 9, 10} {
		if slices.Contains(c.Quote.PCRs, pcr) {
			quoted = append(quoted, fmt.Sprint(pcr))
		}
	}
	d.rule(len(quoted) > 0, "registers-quoted", fmt.Sprintf("[%s].all(r, r in quote.pcrs)", strings.Join(quoted, ", ")), "quote these registers in one accepted bank")
	if c.Quote.Firmware != "" {
		d.comment("The TPM's firmware is %s; a rule about it would break with its next update.", c.Quote.Firmware)
	}
}

func (d *draft) boot() {
	c := d.claims.Boot
	d.rule(c.Events > 0 && c.SeparatorsAll, "firmware-log", "boot.events > 0 && boot.separators_all", "send the firmware's event log; each of registers 0 to 7 ends its firmware phase with a separator")
	if c.Firmware != "" {
		d.comment("The firmware's version is %s; a rule about it would break with its next update.", c.Firmware)
	}
	d.rule(c.SecureBoot, "secure-boot", "boot.secure_boot", "turn Secure Boot on in the firmware set-up")
	authorities := slices.Compact(slices.Sorted(slices.Values(c.Authorities)))
	certified := !slices.ContainsFunc(authorities, func(a string) bool { return !isDigest(a) })
	if c.SecureBoot && len(authorities) > 0 && certified {
		d.rule(true, "boot-authorities", fmt.Sprintf(`size(boot.authorities) > 0 && boot.authorities.all(a, a in ["%s"])`, strings.Join(authorities, `", "`)), "boot programs that these certificates verify")
	}
	if c.Revoked > 0 {
		d.rule(true, "revocations", fmt.Sprintf("boot.revoked >= %d", c.Revoked), "update the firmware's dbx (fwupdmgr update)")
	}
	if c.SBAT > 0 {
		d.rule(true, "revocations-of-shim", fmt.Sprintf("boot.sbat >= %d", c.SBAT), "update shim, so that it enforces newer revocations")
	}
	d.rule(d.claims.Kernel.Lockdown == "confidentiality", "lockdown", `kernel.lockdown == "confidentiality"`, "boot with lockdown=confidentiality, or root reads the kernel's memory")
}

func (d *draft) software() {
	c := d.claims
	d.rule(c.Software.Entries > 1, "files-measured", "software.entries > 1", "load the measuring policy in the initrd, before any program of the root file system")
	d.rule(c.Software.Violations == 0, "no-violations", "software.violations == 0", "reboot, and keep writers away from files that are executed")
	d.rule(c.Packages.Listed > 0 && len(c.Packages.Unlisted) == 0, "packages-listed", "packages.listed > 0 && size(packages.unlisted) == 0", "install packages with the package manager, or remove their files")
	d.rule(len(c.Packages.Debuggers) == 0, "no-debuggers", "size(packages.debuggers) == 0", "remove debuggers from the accepted packages")
}

func isDigest(s string) bool {
	_, err := keystead.ParseDigest(s)
	return err == nil
}

// plain keeps what a machine says of itself on one printable line of a policy.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
