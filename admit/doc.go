// Package admit decides who is admitted to a domain, and for how long: it turns a
// verdict into a lease (docs/design/0004-admission.md).
//
// Members speak in statements: signed notes that enrol a machine, deny hardware, bring
// an object into the domain, set terms or settings. [JudgeEnrolment], [JudgeDenial],
// [JudgeObject], [JudgeTerms] and [JudgeSetting] say what a node endorses of them.
//
// [Decide] judges evidence of a host that asks to be admitted, [Renew] of one that
// wants to keep its lease. Both are pure functions of the [State] and the
// [Application]: nodes of one build come to the same decision bit by bit. What a
// majority endorsed stands on the ledger as a [Record]; [Current] makes a [Lease] of
// it, as long as members, every single node, and the clock allow.
//
// # Trust
//
// The room trusts the state that it is given, and the caller for the nonce, its time,
// the activated key, and that what Objects returns is kept; it holds objects to their
// digests. Of bundles and of notes it trusts nothing that a signature does not cover.
package admit
