use burnish_models::SpecialTokens;

use super::*;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const GEMMA: &str = "{{ bos_token }}{% set ns = namespace(first='') %}{% if messages[0].role == 'system' %}\
                     {% set ns.first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}\
                     {% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + \
                     (ns.first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}\
                     {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";
const MISTRAL: &str = "{% set ns = namespace(system='') %}{% if messages[0].role == 'system' %}\
                       {% set ns.system = messages[0].content %}{% set messages = messages[1:] %}{% endif %}{{ bos_token }}\
                       {% for m in messages %}{% if m.role == 'user' %}{% if loop.last and ns.system %}\
                       {{ '[INST] ' + ns.system + '\n\n' + m.content + '[/INST]' }}{% else %}{{ '[INST] ' + m.content + '[/INST]' }}\
                       {% endif %}{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}";

fn template(source: &str) -> ChatTemplate {
    let special = SpecialTokens { bos: Some(("<bos>".to_owned(), 0)), ..SpecialTokens::default() };
    ChatTemplate::new(source.to_owned(), &special).unwrap()
}

fn learn(source: &str) -> Option<Turns> {
    Turns::learn(&template(source), Some("<bos>"))
}

fn go(source: &str) -> String {
    learn(source).unwrap().to_go().unwrap()
}

#[test]
fn a_system_message_may_have_a_turn_of_its_own() {
    let expected = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}<|im_start|>user\n\
                    {{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ if eq .Role \"user\" }}\
                    {{ .Content }}<|im_end|>\n<|im_start|>assistant\n{{ else if eq .Role \"assistant\" }}{{ .Content }}\
                    {{ if not $last }}<|im_end|>\n<|im_start|>user\n{{ end }}{{ end }}{{ end }}";
    assert_eq!(go(CHATML), expected);
    assert_eq!(learn(CHATML).unwrap().default_system(), None);
}

#[test]
fn a_default_system_message_is_found() {
    let qwen = format!(
        "{{% if messages[0].role != 'system' %}}{{{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}}}{{% endif %}}{CHATML}"
    );
    assert_eq!(learn(&qwen).unwrap().default_system(), Some("You are helpful."));
    assert!(go(&qwen).starts_with(
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n{{ else }}<|im_start|>system\nYou are \
         helpful.<|im_end|>\n<|im_start|>user\n{{ end }}{{ range"
    ));
}

#[test]
fn a_system_message_may_stand_in_the_first_or_the_last_question() {
    assert!(go(GEMMA).starts_with(
        "{{ if .System }}<start_of_turn>user\n{{ .System }}\n\n{{ else }}<start_of_turn>user\n{{ end }}{{ range"
    ));
    let mistral = go(MISTRAL);
    assert!(mistral.starts_with("[INST] {{ range"), "{mistral}");
    let last = "{{ if and $last $.System }}{{ $.System }}\n\n{{ end }}{{ .Content }}{{ if $last }}[/INST]{{ else }}[/INST] {{ end }}";
    assert!(mistral.contains(last), "{mistral}");
    assert!(mistral.contains("{{ .Content }}{{ if not $last }}</s>[INST] {{ end }}"), "{mistral}");
}

#[test]
fn the_last_answer_may_begin_otherwise_than_those_before() {
    let thinking = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}");
    let go = go(&thinking);
    assert!(go.contains("{{ if $last }}<|im_end|>\n<|im_start|>assistant\n<think>\n{{ else }}<|im_end|>"), "{go}");
}

#[test]
fn the_start_token_stays_if_ollama_does_not_add_it() {
    let turns = Turns::learn(&template(GEMMA), None).unwrap();
    assert!(turns.to_go().unwrap().starts_with("{{ if .System }}<bos><start_of_turn>user\n{{ .System }}"));
}

#[test]
fn a_template_with_other_turns_is_not_taken() {
    // It counts the turns.
    assert_eq!(learn(&CHATML.replace("'<|im_start|>' + m.role", "'<|im_start|>' + loop.index | string + m.role")), None);
    assert_eq!(learn("{{ messages[-1].content }}"), None);
    assert_eq!(learn("{{ raise_exception('no') }}"), None);
    // Its texts have marks of Go.
    let marked = CHATML.replace("<|im_end|>", "}} ");
    assert_eq!(learn(&marked).and_then(|turns| turns.to_go()), None);
}

#[test]
fn a_template_that_refuses_system_messages_has_none() {
    let strict = format!("{{% if messages[0].role == 'system' %}}{{{{ raise_exception('none') }}}}{{% endif %}}{CHATML}");
    let go = go(&strict);
    assert!(!go.contains(".System") && go.starts_with("<|im_start|>user\n{{ range"), "{go}");
}
