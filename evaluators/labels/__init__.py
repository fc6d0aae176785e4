"""What do people say of the answers, and what does that make of a judge?

People see tasks (`task`): a question, an answer or two, and a rubric, never a version nor what a judge said.
The program draws which ones (`draw`); what people said (`label`) corrects a judge's difference (`correction`)
and is held against its grades (`agreement`). The ledger keeps draws and labels (`ledger`).
"""
