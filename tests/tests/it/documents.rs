//! What documents repeat of the code is the same there.

#[test]
fn phase_table_in_architecture_is_that_of_the_core() {
    const DOCUMENT: &str = include_str!("../../../ARCHITECTURE.md");
    const BEGIN: &str =
        "<!-- phases: a test compares this table with core/src/conn/phases.md -->\n";
    const END: &str = "<!-- end of phases -->\n";

    let (_, rest) = DOCUMENT.split_once(BEGIN).expect("the table's beginning is marked");
    let (table, _) = rest.split_once(END).expect("the table's end is marked");
    assert_eq!(table, include_str!("../../../core/src/conn/phases.md"));
}
