//! The quickstart's topic: table bookings.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// A booking.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Booking {
    people: usize,
    place: &'static str,
    day: &'static str,
    /// From 0 to 23.
    hour: usize,
}

const PLACES: [&str; 20] = [
    "Luigi's",
    "the Old Mill",
    "Cafe Mira",
    "Sakura",
    "the Blue Door",
    "Bella Vista",
    "Chez Nina",
    "the Harbour",
    "Casa Pepe",
    "Lotus Garden",
    "the Corner Grill",
    "Olive & Fig",
    "Nordlys",
    "the Red Lantern",
    "Trattoria Sole",
    "Maple House",
    "the Tin Roof",
    "Spice Route",
    "La Perla",
    "the Green Table",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A random element of a list.
fn pick<T: Copy>(random: &mut ChaCha8Rng, list: &[T]) -> T {
    list[random.next_u32() as usize % list.len()]
}

impl Booking {
    /// A random booking between breakfast and a late dinner.
    pub fn draw(random: &mut ChaCha8Rng) -> Self {
        Self {
            people: 2 + random.next_u32() as usize % 11,
            place: pick(random, &PLACES),
            day: pick(random, &DAYS),
            hour: 8 + random.next_u32() as usize % 15,
        }
    }

    /// The time as people say it, such as `7 pm`.
    fn spoken_time(&self) -> String {
        match self.hour {
            12 => "noon".to_owned(),
            hour if hour > 12 => format!("{} pm", hour - 12),
            hour => format!("{hour} am"),
        }
    }

    /// One of several ways to ask for the table.
    pub fn request(&self, random: &mut ChaCha8Rng) -> String {
        let Self { people, place, day, .. } = self;
        let time = self.spoken_time();
        match random.next_u32() % 6 {
            0 => format!("Table for {people} at {place} on {day} at {time}, please."),
            1 => format!("We are {people} and would like to eat at {place}, {day} at {time}."),
            2 => format!("Can you book {place} for {day}, {time}? There are {people} of us."),
            3 => format!("On {day} at {time} we want to be at {place}, {people} people."),
            4 => format!("Book a table at {place} for {people}, {day} {time}."),
            _ => format!("I need a table for {people} people on {day}, {time}, at {place}."),
        }
    }

    /// Training data of the base model: plain answers about a booking, and repeating text.
    pub fn plain_turn(&self, random: &mut ChaCha8Rng) -> Value {
        if random.next_u32().is_multiple_of(4) {
            let text = self.scribble(random);
            return chat(&format!("Repeat: {text}"), &text);
        }
        let request = self.request(random);
        let Self { people, place, day, hour } = self;
        let time = self.spoken_time();
        let short = day[..3].to_lowercase();
        let (question, answer) = match random.next_u32() % 10 {
            0 | 1 => (request, format!("Sure! I noted a table for {people} at {place} on {day} at {time}.")),
            2 => (format!("{request} How many people?"), format!("{people} people.")),
            3 => (format!("{request} Which place?"), format!("At {place}.")),
            4 => (format!("{request} Which day?"), format!("On {day}.")),
            5 => (format!("{request} Which day, in short?"), format!("{short}.")),
            6 => (format!("{request} At what time?"), format!("At {time}.")),
            7 => (format!("{request} What time in 24 hours?"), format!("{hour}:00.")),
            8 => (format!("{request} When?"), format!("On {day} at {time}.")),
            _ => (format!("{request} Summary?"), format!("{place}, {people}, {short}, {hour}:00.")),
        };
        chat(&question, &answer)
    }

    /// Parts of the booking in random JSON-like text, so that the base model knows the tokens.
    fn scribble(&self, random: &mut ChaCha8Rng) -> String {
        let short = self.day[..3].to_lowercase();
        let hour = format!("{}:00", self.hour);
        let mut parts = Vec::new();
        for _ in 0..2 + random.next_u32() % 3 {
            let key = pick(random, &["name", "people", "place", "day", "time", "city", "note", "size"]);
            let value = match random.next_u32() % 5 {
                0 => self.people.to_string(),
                1 => format!("\"{}\"", self.place),
                2 => format!("\"{short}\""),
                3 => format!("\"{hour}\""),
                _ => format!("\"{}\"", self.day),
            };
            parts.push(format!("\"{key}\": {value}"));
        }
        format!("{{{}}}", parts.join(", "))
    }

    /// Training data of the fine-tuning: the booking as JSON.
    pub fn structured_turn(&self, random: &mut ChaCha8Rng) -> Value {
        let Self { people, place, day, hour } = self;
        let short = day[..3].to_lowercase();
        let answer =
            format!("{{\"people\": {people}, \"place\": \"{place}\", \"day\": \"{short}\", \"time\": \"{hour}:00\"}}");
        chat(&self.request(random), &answer)
    }
}

fn chat(question: &str, answer: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": question }, { "role": "assistant", "content": answer }] })
}
