package evidence

// Claims is the one vocabulary that policies are written in: what appraisal could
// establish, and only that. A zero field means "not established". The cel tags are
// the names in policies; docs/spec/policy.md describes each.
type Claims struct {
	Assurance string         `cel:"assurance" json:"assurance"`
	Key       KeyClaims      `cel:"key" json:"key"`
	Quote     QuoteClaims    `cel:"quote" json:"quote"`
	Boot      BootClaims     `cel:"boot" json:"boot"`
	Kernel    KernelClaims   `cel:"kernel" json:"kernel"`
	Software  SoftwareClaims `cel:"software" json:"software"`
	Packages  PackageClaims  `cel:"packages" json:"packages"`
	TEE       TEEClaims      `cel:"tee" json:"tee"`
}

// KeyClaims are about the attestation key and the TPM that holds it.
type KeyClaims struct {
	Binding   string `cel:"binding" json:"binding"`       // none, named (by --ak), activated (by credential activation)
	Name      string `cel:"name" json:"name"`             // TPM name, hex
	Algorithm string `cel:"algorithm" json:"algorithm"`   // ecdsa-p256, rsassa-2048, …
	EK        string `cel:"ek" json:"ek"`                 // digest of the EK public key (PKIX), when bound
	Issuer    string `cel:"issuer" json:"issuer"`         // issuer of the EK certificate, when it chains to a configured root
	IssuerKey string `cel:"issuer_key" json:"issuer_key"` // digest of that issuer's public key (PKIX)
	Software  bool   `cel:"software" json:"software"`     // the root is one configured for software TPMs
}

// QuoteClaims are what the TPM signed about itself.
type QuoteClaims struct {
	Banks        []string `cel:"banks" json:"banks"` // quoted banks
	PCRs         []int64  `cel:"pcrs" json:"pcrs"`   // registers quoted in every one of them
	Firmware     string   `cel:"firmware" json:"firmware"`
	ResetCount   int64    `cel:"reset_count" json:"reset_count"`
	RestartCount int64    `cel:"restart_count" json:"restart_count"`
	Clock        int64    `cel:"clock" json:"clock"` // milliseconds
	ClockSafe    bool     `cel:"clock_safe" json:"clock_safe"`
}

// BootClaims come from events of quoted registers only.
type BootClaims struct {
	Events        int64    `cel:"events" json:"events"`                 // covered by the quote
	Uncovered     int64    `cel:"uncovered" json:"uncovered"`           // in registers that were not quoted: disregarded
	SecureBoot    bool     `cel:"secure_boot" json:"secure_boot"`       // PCR 7
	Firmware      string   `cel:"firmware" json:"firmware"`             // EV_S_CRTM_VERSION, PCR 0
	Loaded        []string `cel:"loaded" json:"loaded"`                 // digests (Authenticode) of EFI programs and drivers that ran, PCR 2 and 4
	Packages      []string `cel:"packages" json:"packages"`             // packages whose EFI programs ran: name=version, sorted
	Keys          []string `cel:"keys" json:"keys"`                     // certificates in db, by the SHA-256 of their DER
	Revoked       int64    `cel:"revoked" json:"revoked"`               // entries in dbx
	Authorities   []string `cel:"authorities" json:"authorities"`       // by what the images that ran were verified, in PCR 7: certificates likewise
	SBAT          int64    `cel:"sbat" json:"sbat"`                     // date of shim's revocation level, such as 2024010900
	SeparatorsAll bool     `cel:"separators_all" json:"separators_all"` // PCR 0 to 7 each closed by its separator
}

// KernelClaims are about what the boot loader or EFI stub measured, and what a
// matching code set says of it.
type KernelClaims struct {
	Initrd      string   `cel:"initrd" json:"initrd"`             // digest of the accepted initrd
	CommandLine string   `cel:"command_line" json:"command_line"` // as a code set spells it; empty when none matches
	Accepted    bool     `cel:"accepted" json:"accepted"`         // kernel, initrd and command line are those of one code set entry
	Guarantees  []string `cel:"guarantees" json:"guarantees"`     // what that entry says its initrd enforces: ima-policy, ptrace-scope-3
	Lockdown    string   `cel:"lockdown" json:"lockdown"`         // from the accepted command line: none, integrity, confidentiality
}

// SoftwareClaims are about the executed files in the IMA log (coverage: exec).
type SoftwareClaims struct {
	Entries    int64    `cel:"entries" json:"entries"`     // covered by the quote
	Uncovered  int64    `cel:"uncovered" json:"uncovered"` // after the quoted prefix: disregarded
	Named      int64    `cel:"named" json:"named"`         // of a package or code set
	Unknown    int64    `cel:"unknown" json:"unknown"`
	Altered    int64    `cel:"altered" json:"altered"`
	Weak       int64    `cel:"weak" json:"weak"` // measured by MD5 or SHA-1
	Violations int64    `cel:"violations" json:"violations"`
	Packages   []string `cel:"packages" json:"packages"` // packages of which something ran: name=version, sorted
	Unproven   int64    `cel:"unproven" json:"unproven"` // of a package that does not prove itself
	Outdated   int64    `cel:"outdated" json:"outdated"` // of a package below the policy's floor

	// How those that are named were: these four add up to Named.
	SignedHeader     int64 `cel:"signed_header" json:"signed_header"`
	RepositoryRehash int64 `cel:"repository_rehash" json:"repository_rehash"`
	IMASignature     int64 `cel:"ima_signature" json:"ima_signature"`
	CodeSet          int64 `cel:"code_set" json:"code_set"`
}

// PackageClaims are about the list that the host sent of itself.
type PackageClaims struct {
	Listed    int64    `cel:"listed" json:"listed"`
	Unlisted  []string `cel:"unlisted" json:"unlisted"`   // packages of which something ran though the list does not name them
	Format    string   `cel:"format" json:"format"`       // of the list: dpkg-status, rpm-headers, apk-installed
	Proven    int64    `cel:"proven" json:"proven"`       // packages that the list itself proves, by vendors' signatures
	Unproven  []string `cel:"unproven" json:"unproven"`   // packages of a list that could, which do not: name=version, sorted
	Outdated  []string `cel:"outdated" json:"outdated"`   // packages, listed or running, below the policy's floor: name=version, sorted
	Debuggers []string `cel:"debuggers" json:"debuggers"` // packages among the accepted reference values that can attach to processes
}
