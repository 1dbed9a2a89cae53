package policy

// TEE reports whether evidence of a trusted execution environment counts without a TPM's
// (tee accepted). The zero Policy is the strict one in all that follows.
func (p *Policy) TEE() bool { return !p.IsZero() && p.head.tee }

// TEECurrent reports whether the vendor must call the firmware's level up to date
// (tee-tcb current), or its word is only reported.
func (p *Policy) TEECurrent() bool { return p.IsZero() || p.head.teeCurrent }

// TEERevocation reports whether current revocation lists are needed (tee-revocation
// required). A key that a list names is refused in any case.
func (p *Policy) TEERevocation() bool { return p.IsZero() || p.head.teeRevocation }

// TEEDebug reports whether memory may be open to a debugger (tee-debug allowed), which
// reaches assurance test at most.
func (p *Policy) TEEDebug() bool { return !p.IsZero() && p.head.teeDebug }
