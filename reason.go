package keystead

// A Reason names a kind of refusal: kebab-case, the same in CLI, API and ledger.
// The list is closed and only grows; docs/spec/reasons.md explains each, and a
// test holds the two together.
type Reason string

// Error makes a Reason a target for errors.Is.
func (r Reason) Error() string { return string(r) }

// A Stage is where on the way from evidence to grant a refusal falls. Its number
// is the exit status of the CLI.
type Stage int

// The stages, in the order in which they are judged.
const (
	StageMisuse      Stage = 1 // the command or request was wrong
	StageSignature   Stage = 2 // syntax and cryptography: root of trust, replay, freshness
	StageCollateral  Stage = 3 // certificates, repositories and their dates
	StageRevoked     Stage = 4
	StagePolicy      Stage = 5 // software and policy
	StageUnavailable Stage = 6 // no quorum, clock-stale, timeout
	StageInternal    Stage = 7
	StageNotFound    Stage = 8 // what was asked for does not exist: a name, a leaf, a version
)

// Root of trust.
const (
	ReasonMalformed         Reason = "malformed"          // bytes that do not parse
	ReasonEvidenceMissing   Reason = "evidence-missing"   // a part that the policy or the chain of checks needs is not in the bundle
	ReasonSignatureInvalid  Reason = "signature-invalid"  // the quote's signature does not verify under the attestation key
	ReasonKeyForeign        Reason = "key-foreign"        // the bundle's attestation key is not the accepted one
	ReasonKeyUnsuitable     Reason = "key-unsuitable"     // not restricted, not fixedTPM, wrong scheme, too short
	ReasonNonceMismatch     Reason = "nonce-mismatch"     // the quote's qualifying data is not the expected binding
	ReasonBundleReplayed    Reason = "bundle-replayed"    // sound in itself, but an answer to another challenge
	ReasonBankUnaccepted    Reason = "bank-unaccepted"    // quoted over a PCR bank that is not sha256 or sha384
	ReasonPCRMismatch       Reason = "pcr-mismatch"       // PCR values differ from the quote, or a replayed log from the PCR
	ReasonLogTruncated      Reason = "log-truncated"      // the log ends before the quoted PCR value is reached
	ReasonLogAltered        Reason = "log-altered"        // the log can not lead to the quoted PCR value
	ReasonDigestInvalid     Reason = "digest-invalid"     // an event's data does not have the digest that the log gives for it
	ReasonBootAggregate     Reason = "boot-aggregate"     // IMA's first entry does not commit to the quoted boot PCRs
	ReasonLogLost           Reason = "log-lost"           // the IMA log of this boot was another: begun anew by kexec, or rewritten
	ReasonLogUnknown        Reason = "log-unknown"        // a continuation of logs that this verifier does not have as the host says: it asks for the whole
	ReasonCredentialInvalid Reason = "credential-invalid" // the answer to credential activation is not the secret
	ReasonNoteUnsigned      Reason = "note-unsigned"      // a policy or code set without a signature by an accepted key
	ReasonIndexUnsigned     Reason = "index-unsigned"     // a repository's index without a signature of the keyring
	ReasonIndexMismatch     Reason = "index-mismatch"     // a file of a repository differs from what its signed index names
	ReasonPackageCorrupt    Reason = "package-corrupt"    // a package's bytes do not unpack, or exceed the bounds
)

// Evidence of trusted execution environments.
const (
	ReasonVendorUntrusted   Reason = "vendor-untrusted"   // a certificate chain that does not lead to a pinned vendor root, or not at that time
	ReasonKeyRevoked        Reason = "key-revoked"        // the vendor revoked a certificate of the chain
	ReasonMachineMismatch   Reason = "machine-mismatch"   // a certificate of another machine or of another firmware than the evidence
	ReasonQEUnbound         Reason = "qe-unbound"         // the quoting enclave's report does not name the key that signed the quote
	ReasonQEUnaccepted      Reason = "qe-unaccepted"      // not the vendor's quoting enclave, or not its firmware module
	ReasonCollateralMissing Reason = "collateral-missing" // the collateral has nothing about this machine
	ReasonCollateralInvalid Reason = "collateral-invalid" // collateral that its vendor did not sign, or that is about something else
	ReasonCollateralExpired Reason = "collateral-expired" // collateral past its next update, or dated after the time of judgement
	ReasonTCBOutdated       Reason = "tcb-outdated"       // firmware whose level the vendor does not call up to date
	ReasonTCBRevoked        Reason = "tcb-revoked"        // firmware whose level the vendor revoked
	ReasonTEEDebug          Reason = "tee-debug"          // memory that a debugger or a migration agent may read
	ReasonTEEUnsuitable     Reason = "tee-unsuitable"     // evidence that says nothing about this guest: asked for by the host, unsigned, of no machine
	ReasonTEEUnbound        Reason = "tee-unbound"        // TEE and TPM evidence in one bundle of which one does not name the other
)

// Attested connections.
const (
	ReasonChannelUnsuitable Reason = "channel-unsuitable" // not TLS 1.3 with the protocol of attestation and certificates of both sides
	ReasonChannelResumed    Reason = "channel-resumed"    // a resumed session, which skips what a handshake proves
	ReasonExporterMissing   Reason = "exporter-missing"   // TLS exports no keying material that evidence could be bound to
	ReasonPurposeMismatch   Reason = "purpose-mismatch"   // evidence that was made for another purpose
	ReasonEvidenceRelayed   Reason = "evidence-relayed"   // evidence of another connection: relayed from it, or kept
	ReasonEvidenceReflected Reason = "evidence-reflected" // this side's own evidence, sent back
	ReasonAttestationFailed Reason = "attestation-failed" // the other side could not make or judge evidence
	ReasonConnectionExpired Reason = "connection-expired" // the connection is older than its evidence may be
)

// The ledger and its receipts.
const (
	ReasonVersionUnknown      Reason = "version-unknown"      // an entry of a version that this build does not know: the node stops
	ReasonDomainMismatch      Reason = "domain-mismatch"      // of another domain than the one whose genesis digest is trusted
	ReasonThresholdMissing    Reason = "threshold-missing"    // fewer members signed than the domain's threshold
	ReasonMajorityMissing     Reason = "majority-missing"     // fewer nodes signed than more than half of the node set
	ReasonSignerUnknown       Reason = "signer-unknown"       // signed by a key that is not, or no longer, of the roster
	ReasonRosterBroken        Reason = "roster-broken"        // a change of nodes or members that does not follow the one before it
	ReasonRosterUnknown       Reason = "roster-unknown"       // the chain from the genesis does not reach the roster that signed
	ReasonRosterOld           Reason = "roster-old"           // signed under a roster that is known to be over
	ReasonRosterConflict      Reason = "roster-conflict"      // two signed changes in one place of the chain
	ReasonProofInvalid        Reason = "proof-invalid"        // an inclusion or consistency proof that does not lead to the root
	ReasonUnprovable          Reason = "unprovable"           // of a kind that is never in the tree: proposals, ticks, denials
	ReasonCheckpointConflict  Reason = "checkpoint-conflict"  // two signed checkpoints of one size with different trees
	ReasonLedgerForked        Reason = "ledger-forked"        // nodes whose logs or trees part: no majority stands where this node does
	ReasonNodeProvenBad       Reason = "node-proven-bad"      // a node that signed two statements which can not both be true
	ReasonGenesisMisplaced    Reason = "genesis-misplaced"    // a second genesis, or an entry before the first
	ReasonTickReplayed        Reason = "tick-replayed"        // a node's tick that is not after its last one
	ReasonNonceExpired        Reason = "nonce-expired"        // a ledger nonce older than 30 s
	ReasonWriteOutside        Reason = "write-outside-prefix" // a write outside the contract's, or judged type's, own prefix
	ReasonConditionFailed     Reason = "condition-failed"     // a key's version is not the one that the executor read
	ReasonRequestExpired      Reason = "request-expired"      // after its deadline, or with a deadline too far ahead
	ReasonProposalUnknown     Reason = "proposal-unknown"     // never proposed, or forgotten since
	ReasonProposalClosed      Reason = "proposal-closed"      // effective already
	ReasonProposalExpired     Reason = "proposal-expired"     // open for more than 30 s
	ReasonSubjectChanged      Reason = "subject-changed"      // another proposal on the same subject took effect first
	ReasonVerdictDisagreement Reason = "verdict-disagreement" // nodes signed different verdicts on one proposal
	ReasonClockStale          Reason = "clock-stale"          // the domain clock does not keep up with this node's own
	ReasonWriterUnlisted      Reason = "writer-unlisted"      // a transaction of a client whom the node does not let write
	ReasonOverloaded          Reason = "overloaded"           // a bound on what the ledger keeps in memory is reached
	ReasonPartUndeclared      Reason = "part-undeclared"      // what a part of a node, agent or command did not declare
	ReasonVersionEarly        Reason = "version-early"        // an entry of a version that the domain's setting entry-version has not reached
	ReasonPositionEarly       Reason = "position-early"       // a position so soon after the last one
	ReasonPositionUnknown     Reason = "position-unknown"     // no such position, or one that a later one took the place of
	ReasonStateDiffers        Reason = "state-differs"        // nodes that applied the same log signed different digests of their states
	ReasonStateUnproven       Reason = "state-unproven"       // a node whose state no majority has confirmed since it started
	ReasonSnapshotUnproven    Reason = "snapshot-unproven"    // a snapshot that is not the state whose digest a majority signed
)

// Collateral.
const (
	ReasonEKUntrusted     Reason = "ek-untrusted"     // the EK certificate does not chain to a configured root
	ReasonEKMismatch      Reason = "ek-mismatch"      // the EK certificate is of another key
	ReasonIndexExpired    Reason = "index-expired"    // a repository's index after its Valid-Until
	ReasonIndexFuture     Reason = "index-future"     // a repository's index dated after the time of judgement
	ReasonPackageMissing  Reason = "package-missing"  // an installed package that no signed index offers
	ReasonHeaderAltered   Reason = "header-altered"   // a package header that is not what its digest or vendor's signature is over
	ReasonHeaderAmbiguous Reason = "header-ambiguous" // a package header with bytes, tags or data that one reader sees and another does not
	ReasonPackageUnsigned Reason = "package-unsigned" // a package whose header or index nobody signed
	ReasonPackageForeign  Reason = "package-foreign"  // a package signed by nobody whom the verifier accepts for it
)

// Software and policy.
const (
	ReasonAKUnbound       Reason = "ak-unbound"            // nothing says which TPM the attestation key belongs to
	ReasonAssuranceLow    Reason = "assurance-low"         // the verdict's assurance is below the policy's minimum
	ReasonFileUnknown     Reason = "file-unknown"          // an executed file whose digest no reference set or code set has
	ReasonFileAltered     Reason = "file-altered"          // the same, at a path that a package owns
	ReasonGraceEnded      Reason = "grace-ended"           // a file or a boot that only a set vouched for whose time is over
	ReasonDigestWeak      Reason = "digest-weak"           // a match by MD5 or SHA-1 only, which never suffices
	ReasonViolation       Reason = "measurement-violation" // IMA could not measure: a file was written while it was open
	ReasonPackageUnlisted Reason = "package-unlisted"      // a file ran from a package that the host's own list does not name
	ReasonPackageOutdated Reason = "package-outdated"      // a version below the floor that the policy states
	ReasonKernelReplaced  Reason = "kernel-replaced"       // another kernel runs than the firmware started: kexec
	ReasonBootUnaccepted  Reason = "boot-unaccepted"       // kernel, initrd or command line is in no code set
	ReasonRuleFailed      Reason = "rule-failed"           // a rule of the policy is not met
	ReasonPolicyUnusable  Reason = "policy-unusable"       // a rule could not be evaluated
)

// Keys by agreement, and their release.
const (
	ReasonRoundUnfit        Reason = "round-unfit"        // a round that the ledger's state does not ask for, or that it has left behind
	ReasonRoundForeign      Reason = "round-foreign"      // a message of another round, purpose, node or wrapping key
	ReasonCommitLate        Reason = "commit-late"        // a commitment that came after a reveal
	ReasonCommitChanged     Reason = "commit-changed"     // a second, different commitment of one node
	ReasonCommitBroken      Reason = "commit-broken"      // revealed bytes that are not those committed to
	ReasonRevealEarly       Reason = "reveal-early"       // a reveal before all commitments were there
	ReasonSealUnopened      Reason = "seal-unopened"      // encrypted bytes that do not open, or not to the confirmed secret
	ReasonContributionLost  Reason = "contribution-lost"  // a node that restarted does not have what it committed to
	ReasonRoundSilent       Reason = "round-silent"       // a node that did not commit or reveal in time
	ReasonSecretMissing     Reason = "secret-missing"     // this node does not have the epoch's secret
	ReasonAgreementMismatch Reason = "agreement-mismatch" // a proposed result that is not what this node computed
	ReasonKeyUnknown        Reason = "key-unknown"        // no key of that name, or no such version of it
	ReasonEvidenceOld       Reason = "evidence-old"       // a lease's evidence is older than the key's specification allows
	ReasonLevelLow          Reason = "level-low"          // less is known of the application than the key's specification asks
)

// Local applications.
const (
	ReasonReportReplayed  Reason = "report-replayed"  // an application's report that answers another challenge
	ReasonReportForeign   Reason = "report-foreign"   // an application's report of another machine, or another boot
	ReasonProcessGone     Reason = "process-gone"     // the process at the other end has ended
	ReasonProcessChanged  Reason = "process-changed"  // its executable, user or content changed since it was asked
	ReasonProcessTraced   Reason = "process-traced"   // a debugger is attached to it
	ReasonExecutableMoved Reason = "executable-moved" // the path does not lead to the file that runs

	ReasonBinaryUnsuitable    Reason = "binary-unsuitable"    // an executable or library whose form, owner or file system keeps it from being signed or measured
	ReasonAppUnsigned         Reason = "app-unsigned"         // a program that carries no signature
	ReasonAppAltered          Reason = "app-altered"          // a program's file, or what it carries, is not what was signed
	ReasonAppCertForeign      Reason = "app-cert-foreign"     // a sub-certificate that no root of the domain issued for that name
	ReasonAppCertExpired      Reason = "app-cert-expired"     // a sub-certificate or its root outside of its time
	ReasonAppCertRevoked      Reason = "app-cert-revoked"     // members denied the sub-certificate's key, or the program
	ReasonTextAltered         Reason = "text-altered"         // read-only memory that is not the signed program's
	ReasonMappingForeign      Reason = "mapping-foreign"      // executable memory that neither the program nor a library that it names put there
	ReasonProcessFiltered     Reason = "process-filtered"     // a seccomp filter, which may answer system calls in the kernel's place
	ReasonSenderForeign       Reason = "sender-foreign"       // a message by another process than the one that connected, or by one that the agent can not tell
	ReasonLaunchUnsealed      Reason = "launch-unsealed"      // a launched process that does not run the sealed copy that was launched
	ReasonApplicationMismatch Reason = "application-mismatch" // an application other than is stated, or on a host or as a user where its root does not have it
)

// Contracts.
const (
	ReasonContractUnknown  Reason = "contract-unknown"  // no contract or method of that name
	ReasonContractUnfit    Reason = "contract-unfit"    // code that nodes do not run: its imports, form or size, or effects that outlast a call
	ReasonContractRefused  Reason = "contract-refused"  // the contract itself refuses the call
	ReasonContractTrapped  Reason = "contract-trapped"  // the contract ended in an error of its own
	ReasonGasExhausted     Reason = "gas-exhausted"     // a call that computes for longer than it may
	ReasonMemoryExceeded   Reason = "memory-exceeded"   // a call that takes more memory, or leaves more behind, than it may
	ReasonPredecessorWrong Reason = "predecessor-wrong" // a call that was executed on another state than the contract has
	ReasonCodeChanged      Reason = "code-changed"      // a call that was executed by other code than is in force
)

// The ledger's engine.
const (
	ReasonNoQuorum          Reason = "no-quorum"          // no leader that a majority of voters follows
	ReasonKeyPending        Reason = "key-pending"        // the roster does not name the signing key that the node started with
	ReasonTimeout           Reason = "timeout"            // no outcome in time; a proposal may still take effect
	ReasonShutdown          Reason = "shutdown"           // the node is closing or has stopped
	ReasonTooLarge          Reason = "too-large"          // a command above the bound
	ReasonNotMember         Reason = "not-member"         // a key or id that the membership does not have
	ReasonChangeUnexplained Reason = "change-unexplained" // a membership change that the roster does not explain
	ReasonChangeRefused     Reason = "change-refused"     // a membership change that does not fit the membership
	ReasonUnsealed          Reason = "unsealed"           // restarted without a valid record of a clean shutdown
	ReasonStoreCorrupt      Reason = "store-corrupt"      // a record of the store that is not what was written
	ReasonDiskRolledBack    Reason = "disk-rolled-back"   // the store is older than what this node acknowledged

	ReasonRecoveryMismatch Reason = "recovery-mismatch" // members signed another recovery than from this disk as it is
)

// States in which a node does not serve, until somebody does something (docs/guide/closed).
const (
	ReasonClosedNoMajority Reason = "closed-no-majority" // too few of the domain's nodes run and reach each other
	ReasonClosedRecovery   Reason = "closed-recovery"    // too many nodes may have forgotten what they promised: members sign from which disk the ledger goes on
	ReasonClosedRekey      Reason = "closed-rekey"       // too many nodes started with new signing keys at once: members sign them in
	ReasonDiskFull         Reason = "disk-full"          // a node keeps the room that is left on its disk for what keeps leases
)

// What is bound to a machine's TPM.
const (
	ReasonSealedStateChanged Reason = "sealed-state-changed" // a register does not hold what it held at the time of sealing
	ReasonSealedElsewhere    Reason = "sealed-elsewhere"     // bound to another TPM, or to this one before it was cleared
	ReasonSealedDamaged      Reason = "sealed-damaged"       // not what the TPM sealed
	ReasonRecordRolledBack   Reason = "record-rolled-back"   // a record that the TPM's counter has left behind
)

// Admission: statements of members, hosts and their leases.
const (
	ReasonHostUnenrolled  Reason = "host-unenrolled"  // members enrolled no host of that name
	ReasonHostRevoked     Reason = "host-revoked"     // members revoked the host's enrolment
	ReasonHardwareForeign Reason = "hardware-foreign" // hardware other than what is enrolled under the name
	ReasonHardwareTaken   Reason = "hardware-taken"   // a hardware identity that is enrolled under another name
	ReasonHardwareDenied  Reason = "hardware-denied"  // a TPM, its issuer or a firmware version on the domain's deny list
	ReasonBootChanged     Reason = "boot-changed"     // a renewal with another key, subject key or boot than the admission's
	ReasonTPMCleared      Reason = "tpm-cleared"      // the TPM counts fewer resets than before
	ReasonTPMRolledBack   Reason = "tpm-rolled-back"  // within a boot, the TPM's counters or clock are behind what it said before
	ReasonFirmwareChanged Reason = "firmware-changed" // a renewal by another version of the TPM's firmware than the admission's
	ReasonLeaseUnknown    Reason = "lease-unknown"    // no such lease: never admitted, or admitted again since
	ReasonLeaseSuspended  Reason = "lease-suspended"  // a node suspended the lease
	ReasonLeaseExpired    Reason = "lease-expired"    // the lease was not renewed in time
	ReasonLeaseTooLong    Reason = "lease-too-long"   // a renewal beyond what the domain gives
	ReasonRenewalReplayed Reason = "renewal-replayed" // a renewal that does not prolong its lease
	ReasonPairMissing     Reason = "pair-missing"     // renewals without the signatures of two different nodes
	ReasonSubjectMismatch Reason = "subject-mismatch" // a statement of members on another subject
	ReasonTermsMissing    Reason = "terms-missing"    // no terms say what a role is judged by
	ReasonTermsExclude    Reason = "terms-exclude"    // what members signed would have nodes fall out that are needed, or more than it says
	ReasonObjectUnknown   Reason = "object-unknown"   // terms name an object that is not endorsed as what they take it for
	ReasonObjectMissing   Reason = "object-missing"   // an object's bytes are not at hand
	ReasonObjectMismatch  Reason = "object-mismatch"  // an object's bytes are not what they are said to be
)

// Archived evidence, and watching hosts.
const (
	ReasonArchiveMissing    Reason = "archive-missing"     // this node archived nothing on that verdict, or destroyed it
	ReasonArchiveExpired    Reason = "archive-expired"     // archived for longer than the domain wants it kept
	ReasonArchiveFull       Reason = "archive-full"        // no room in this node's archive, or none for this host
	ReasonArchiveAltered    Reason = "archive-altered"     // archived bytes that are not what was archived
	ReasonArchiveKeyMissing Reason = "archive-key-missing" // the key of an archived record is gone, and the record with it
	ReasonReaderUnnamed     Reason = "reader-unnamed"      // a member whom the domain does not name as a reader of its archive
	ReasonRequestReplayed   Reason = "request-replayed"    // a signed request that served already
	ReasonReplayDiffers     Reason = "replay-differs"      // the archived inputs give another verdict than the endorsed one
	ReasonBuildDiffers      Reason = "build-differs"       // another build than the one that endorsed gives another verdict
	ReasonLeafFuture        Reason = "leaf-future"         // a leaf that the tree does not have yet
	ReasonWatcherSlow       Reason = "watcher-slow"        // a watcher that takes what it is told too slowly
)

var stages = map[Reason]Stage{
	ReasonMalformed:           StageSignature,
	ReasonEvidenceMissing:     StageSignature,
	ReasonSignatureInvalid:    StageSignature,
	ReasonKeyForeign:          StageSignature,
	ReasonKeyUnsuitable:       StageSignature,
	ReasonNonceMismatch:       StageSignature,
	ReasonBundleReplayed:      StageSignature,
	ReasonBankUnaccepted:      StageSignature,
	ReasonPCRMismatch:         StageSignature,
	ReasonLogTruncated:        StageSignature,
	ReasonLogAltered:          StageSignature,
	ReasonDigestInvalid:       StageSignature,
	ReasonBootAggregate:       StageSignature,
	ReasonCredentialInvalid:   StageSignature,
	ReasonNoteUnsigned:        StageSignature,
	ReasonIndexUnsigned:       StageSignature,
	ReasonIndexMismatch:       StageSignature,
	ReasonPackageCorrupt:      StageSignature,
	ReasonChannelUnsuitable:   StageSignature,
	ReasonChannelResumed:      StageSignature,
	ReasonExporterMissing:     StageSignature,
	ReasonPurposeMismatch:     StageSignature,
	ReasonEvidenceRelayed:     StageSignature,
	ReasonEvidenceReflected:   StageSignature,
	ReasonAttestationFailed:   StageUnavailable,
	ReasonConnectionExpired:   StageUnavailable,
	ReasonVersionUnknown:      StageSignature,
	ReasonDomainMismatch:      StageSignature,
	ReasonThresholdMissing:    StageSignature,
	ReasonMajorityMissing:     StageSignature,
	ReasonSignerUnknown:       StageSignature,
	ReasonRosterBroken:        StageSignature,
	ReasonRosterUnknown:       StageSignature,
	ReasonRosterOld:           StageSignature,
	ReasonRosterConflict:      StageSignature,
	ReasonProofInvalid:        StageSignature,
	ReasonUnprovable:          StageSignature,
	ReasonCheckpointConflict:  StageSignature,
	ReasonGenesisMisplaced:    StageSignature,
	ReasonTickReplayed:        StageSignature,
	ReasonNonceExpired:        StageSignature,
	ReasonWriteOutside:        StagePolicy,
	ReasonConditionFailed:     StagePolicy,
	ReasonRequestExpired:      StageUnavailable,
	ReasonProposalUnknown:     StagePolicy,
	ReasonProposalClosed:      StagePolicy,
	ReasonProposalExpired:     StageUnavailable,
	ReasonSubjectChanged:      StagePolicy,
	ReasonVerdictDisagreement: StagePolicy,
	ReasonClockStale:          StageUnavailable,
	ReasonWriterUnlisted:      StagePolicy,
	ReasonOverloaded:          StageUnavailable,
	ReasonPartUndeclared:      StagePolicy,
	ReasonVersionEarly:        StagePolicy,
	ReasonPositionEarly:       StageUnavailable,
	ReasonPositionUnknown:     StageUnavailable,
	ReasonStateDiffers:        StageUnavailable,
	ReasonStateUnproven:       StageUnavailable,
	ReasonSnapshotUnproven:    StageSignature,
	ReasonVendorUntrusted:     StageCollateral,
	ReasonKeyRevoked:          StageRevoked,
	ReasonMachineMismatch:     StageCollateral,
	ReasonQEUnbound:           StageSignature,
	ReasonQEUnaccepted:        StagePolicy,
	ReasonCollateralMissing:   StageCollateral,
	ReasonCollateralInvalid:   StageCollateral,
	ReasonCollateralExpired:   StageCollateral,
	ReasonTCBOutdated:         StagePolicy,
	ReasonTCBRevoked:          StageRevoked,
	ReasonTEEDebug:            StagePolicy,
	ReasonTEEUnsuitable:       StagePolicy,
	ReasonTEEUnbound:          StageSignature,
	ReasonEKUntrusted:         StageCollateral,
	ReasonLogUnknown:          StageCollateral,
	ReasonLogLost:             StageSignature,
	ReasonEKMismatch:          StageCollateral,
	ReasonIndexExpired:        StageCollateral,
	ReasonIndexFuture:         StageCollateral,
	ReasonPackageMissing:      StageCollateral,
	ReasonHeaderAltered:       StageSignature,
	ReasonHeaderAmbiguous:     StageSignature,
	ReasonPackageUnsigned:     StagePolicy,
	ReasonPackageForeign:      StagePolicy,
	ReasonPackageOutdated:     StagePolicy,
	ReasonAKUnbound:           StagePolicy,
	ReasonAssuranceLow:        StagePolicy,
	ReasonFileUnknown:         StagePolicy,
	ReasonFileAltered:         StagePolicy,
	ReasonGraceEnded:          StagePolicy,
	ReasonDigestWeak:          StagePolicy,
	ReasonViolation:           StagePolicy,
	ReasonPackageUnlisted:     StagePolicy,
	ReasonBootUnaccepted:      StagePolicy,
	ReasonKernelReplaced:      StagePolicy,
	ReasonRuleFailed:          StagePolicy,
	ReasonPolicyUnusable:      StagePolicy,
	ReasonReportReplayed:      StageSignature,
	ReasonReportForeign:       StageSignature,
	ReasonProcessGone:         StageSignature,
	ReasonProcessChanged:      StageSignature,
	ReasonContractUnknown:     StageNotFound,
	ReasonContractUnfit:       StagePolicy,
	ReasonContractRefused:     StagePolicy,
	ReasonContractTrapped:     StagePolicy,
	ReasonGasExhausted:        StagePolicy,
	ReasonMemoryExceeded:      StagePolicy,
	ReasonPredecessorWrong:    StageUnavailable,
	ReasonCodeChanged:         StageUnavailable,

	ReasonProcessTraced:       StageSignature,
	ReasonExecutableMoved:     StageSignature,
	ReasonBinaryUnsuitable:    StageSignature,
	ReasonAppUnsigned:         StageSignature,
	ReasonAppAltered:          StageSignature,
	ReasonAppCertForeign:      StageCollateral,
	ReasonAppCertExpired:      StageCollateral,
	ReasonAppCertRevoked:      StageRevoked,
	ReasonTextAltered:         StageSignature,
	ReasonMappingForeign:      StageSignature,
	ReasonProcessFiltered:     StageSignature,
	ReasonSenderForeign:       StageSignature,
	ReasonLaunchUnsealed:      StageSignature,
	ReasonApplicationMismatch: StagePolicy,
	ReasonHostUnenrolled:      StagePolicy,
	ReasonHostRevoked:         StageRevoked,
	ReasonHardwareForeign:     StagePolicy,
	ReasonHardwareTaken:       StagePolicy,
	ReasonHardwareDenied:      StageRevoked,
	ReasonBootChanged:         StagePolicy,
	ReasonTPMCleared:          StagePolicy,
	ReasonTPMRolledBack:       StageSignature,
	ReasonFirmwareChanged:     StagePolicy,
	ReasonLeaseUnknown:        StagePolicy,
	ReasonLeaseSuspended:      StageRevoked,
	ReasonLeaseExpired:        StageUnavailable,
	ReasonLeaseTooLong:        StagePolicy,
	ReasonRenewalReplayed:     StageSignature,
	ReasonPairMissing:         StageSignature,
	ReasonSubjectMismatch:     StageSignature,
	ReasonTermsMissing:        StagePolicy,
	ReasonTermsExclude:        StagePolicy,
	ReasonObjectUnknown:       StagePolicy,
	ReasonObjectMissing:       StageUnavailable,
	ReasonObjectMismatch:      StageSignature,
	ReasonRoundUnfit:          StagePolicy,
	ReasonRoundForeign:        StageSignature,
	ReasonCommitLate:          StageSignature,
	ReasonCommitChanged:       StageSignature,
	ReasonCommitBroken:        StageSignature,
	ReasonRevealEarly:         StageSignature,
	ReasonSealUnopened:        StageSignature,
	ReasonContributionLost:    StageUnavailable,
	ReasonRoundSilent:         StageUnavailable,
	ReasonSecretMissing:       StageUnavailable,
	ReasonAgreementMismatch:   StageSignature,
	ReasonKeyUnknown:          StageNotFound,
	ReasonEvidenceOld:         StagePolicy,
	ReasonLevelLow:            StagePolicy,
	ReasonArchiveMissing:      StageUnavailable,
	ReasonArchiveExpired:      StagePolicy,
	ReasonArchiveFull:         StageUnavailable,
	ReasonArchiveAltered:      StageSignature,
	ReasonArchiveKeyMissing:   StageUnavailable,
	ReasonReaderUnnamed:       StagePolicy,
	ReasonRequestReplayed:     StageSignature,
	ReasonReplayDiffers:       StageSignature,
	ReasonBuildDiffers:        StageUnavailable,
	ReasonLeafFuture:          StageNotFound,
	ReasonWatcherSlow:         StageUnavailable,
	ReasonLedgerForked:        StageUnavailable,
	ReasonNodeProvenBad:       StageRevoked,
	ReasonNoQuorum:            StageUnavailable,
	ReasonClosedNoMajority:    StageUnavailable,
	ReasonClosedRecovery:      StageUnavailable,
	ReasonClosedRekey:         StageUnavailable,
	ReasonDiskFull:            StageUnavailable,
	ReasonKeyPending:          StageUnavailable,
	ReasonTimeout:             StageUnavailable,
	ReasonShutdown:            StageUnavailable,
	ReasonTooLarge:            StageMisuse,
	ReasonNotMember:           StagePolicy,
	ReasonChangeRefused:       StageMisuse,
	ReasonChangeUnexplained:   StagePolicy,
	ReasonUnsealed:            StageUnavailable,
	ReasonRecoveryMismatch:    StagePolicy,
	ReasonStoreCorrupt:        StageInternal,
	ReasonDiskRolledBack:      StageInternal,
	ReasonSealedStateChanged:  StagePolicy,
	ReasonSealedElsewhere:     StageSignature,
	ReasonSealedDamaged:       StageSignature,
	ReasonRecordRolledBack:    StageInternal,
}

// Stage returns where the reason falls; StageInternal for one that is not listed.
func (r Reason) Stage() Stage {
	if s, ok := stages[r]; ok {
		return s
	}
	return StageInternal
}

// Known reports whether the reason is of the closed list.
func (r Reason) Known() bool { _, ok := stages[r]; return ok }
